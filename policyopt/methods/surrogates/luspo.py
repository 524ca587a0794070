"""LUSPO, Length-Unbiased Sequence Policy Optimization.

"Length-Unbiased Sequence Policy Optimization: Revealing and Controlling
Response Length Variation in RLVR", 2026, arXiv:2602.05261.

GSPO gives each response the weight 1 / n in front of a sum over n tokens, so
the tokens of long responses move little. LUSPO multiplies by n again:

  s = exp((1 / n) Σₜ log ρₜ)
  L = −mean over rows of n·min(s·A, clip(s, 1 − ε_low, 1 + ε_high)·A)

Equals gspo(aggregation='sequence_sum') with the same clip.

Differs from the authors' code, as TRL runs it: rows without a token take no
part in the mean.
"""

from __future__ import annotations

from policyopt.methods.base.gspo import gspo
from policyopt.types import Method


def luspo(
    *,
    std: str = 'sample',
    eps: float = 1e-6,
    singleton: str = 'zero',
    clip_low: float = 2e-3,
    clip_high: float = 2.5e-3,
    gradient: str = 'sequence',
    old: str = 'log_probs',
    aggregation: str = 'sequence_sum',
    max_tokens: int | None = None,
) -> Method:
  """LUSPO: the sequence ratio of GSPO, and token sums instead of means.

  Args:
    std: 'sample', 'population' or 'none' (only the mean is removed).
    eps: added to the standard deviation.
    singleton: what a group of one gets: 'zero' or 'raw'.
    clip_low: how far the sequence ratio may fall below 1.
    clip_high: how far it may rise above 1.
    gradient: 'sequence' or 'token', as in `gspo`.
    old: 'log_probs' or 'old_log_probs', as in `grpo`.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method.

  Raises:
    ValueError: an unknown `gradient`, `old` or `aggregation`.

  Source: "Length-Unbiased Sequence Policy Optimization: Revealing and
    Controlling Response Length Variation in RLVR", 2026, arXiv:2602.05261.

  Example:
    >>> sorted(luspo().loss.needs)
    []
  """
  return gspo(
      std=std, eps=eps, singleton=singleton, clip_low=clip_low,
      clip_high=clip_high, gradient=gradient, old=old,
      aggregation=aggregation, max_tokens=max_tokens)
