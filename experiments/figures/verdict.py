"""What the records of a figure say about a claim, by one stated test.

The effect of a claim is measured once per seed, as a number that is positive
when the claim is right. The test: the two-sided 95% interval of Student for
the mean over seeds. Above `at_least`: reproduced. Below −`at_least`:
contradicted; otherwise undecided at this scale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

REPRODUCED, CONTRADICTED, UNDECIDED = 'reproduced', 'contradicted', 'undecided'


class Claim(NamedTuple):
  """Something that a paper says and that a figure can measure.

  Attributes:
    says: the claim, in one sentence.
    measured: what is measured for it, in one sentence; a difference between
      two arms is paired by seed.
    unit: of the effect.
    effect: records -> f64[S], one number a seed, positive when the claim is
      right.
    at_least: the smallest effect that counts, in the same unit.
  """
  says: str
  measured: str
  unit: str
  effect: Callable[[dict], Any]
  at_least: float = 0.0


class Verdict(NamedTuple):
  """A claim judged.

  Attributes:
    word: 'reproduced', 'contradicted' or 'undecided'.
    effect: mean over seeds.
    low: lower end of its 95% interval.
    high: upper end.
    seeds: S.
  """
  word: str
  effect: float
  low: float
  high: float
  seeds: int


def interval(values) -> tuple[float, float, float]:
  """Mean over seeds and the ends of its 95% interval (Student).

  Args:
    values: [S].

  Returns:
    (mean, low, high).

  Raises:
    ValueError: for fewer than two seeds, or values that are not finite.

  Example:
    >>> mean, low, high = interval([1., 2., 3.])
    >>> round(mean, 3), round(low, 3), round(high, 3)
    (2.0, -0.484, 4.484)
  """
  values = np.asarray(values, np.float64)
  if values.ndim != 1 or len(values) < 2:
    raise ValueError(
        f'values has the shape {values.shape}; it must hold one number for '
        'each of at least 2 seeds')
  if not np.isfinite(values).all():
    raise ValueError(f'values is {values}; it must be finite')
  mean = values.mean()
  half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(
      len(values))
  return float(mean), float(mean - half), float(mean + half)


def judge(claim: Claim, records: dict) -> Verdict:
  """Applies the test to the records.

  Example:
    >>> claim = Claim('A beats B', 'reward', '', lambda r: r['a'] - r['b'])
    >>> records = {'a': np.array([.5, .6, .7]), 'b': np.array([.1, .1, .2])}
    >>> judge(claim, records).word
    'reproduced'
  """
  effects = np.asarray(claim.effect(records), np.float64)
  mean, low, high = interval(effects)
  if low > claim.at_least:
    word = REPRODUCED
  elif high < -claim.at_least:
    word = CONTRADICTED
  else:
    word = UNDECIDED
  return Verdict(word, mean, low, high, len(effects))


def sentence(claim: Claim, verdict: Verdict) -> str:
  """A verdict as a line of text.

  Example:
    >>> claim = Claim('A beats B', 'reward', 'nats', None)
    >>> sentence(claim, Verdict('undecided', 0.1, -0.2, 0.4, 16))
    'undecided: +0.1 nats [-0.2, +0.4], 16 seeds'
  """
  unit = f' {claim.unit}' if claim.unit else ''
  return (f'{verdict.word}: {verdict.effect:+.3g}{unit} '
          f'[{verdict.low:+.3g}, {verdict.high:+.3g}], {verdict.seeds} seeds')
