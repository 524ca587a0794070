"""The choices that frameworks differ in, as the fields of one record."""

from __future__ import annotations

from typing import NamedTuple

from policyopt.ops import aggregation, divergences, normalizers, ratios, returns
from policyopt.ops.surrogates import off_policy

_CHOICES = {
    'baseline': ('group_mean', 'leave_one_out', 'critic'),
    'std': ('sample', 'population', 'others', 'none'),
    'singleton': normalizers.SINGLETON_RULES,
    'level': ('token', 'sequence', 'product'),
    'old': ('log_probs', 'old_log_probs'),
    'empty_rows': aggregation.EMPTY_ROWS,
    'observations': returns.OBSERVATIONS,
    'kl': divergences.ESTIMATORS,
    'kl_gradient': (None, *divergences.ESTIMATORS),
    'importance': (None, *off_policy.LEVELS),
    'importance_bound': off_policy.BOUNDS,
    'reward_clip_place': ('reward', 'score'),
    'whiten': ('sample', 'population', 'none'),
    'whiten_guard': ('add', 'floor'),
    'trust_region': ('ratio', 'probability'),
    'kl_place': ('loss', 'reward', 'advantage'),
    'kl_ratio': ('none', 'old', 'one'),
}
# What a spread can be of, for each baseline.
_SPREADS = {
    'group_mean': ('sample', 'population', 'none'),
    'leave_one_out': ('others', 'none'),
    'critic': ('none',),
}


class Dialect(NamedTuple):
  """What a framework does for an algorithm when nothing is configured.

  Attributes:
    source: where the defaults stand: repository, version, files.
    baseline: what the reward is compared with: 'group_mean', 'leave_one_out'
      (the mean of the others of the group) or 'critic' (GAE over values).
    std: the spread that the difference is divided by: 'sample', 'population',
      'others' (the sample spread of the others of the group) or 'none'.
    eps: added to that spread.
    singleton: what a group of one gets: 'zero', or 'raw', its reward.
    clip_low: how far the ratio (or probability) may fall.
    clip_high: how far it may rise.
    dual_clip: bound c on the ratio where A < 0, or None.
    trust_region: what the clip bounds: the 'ratio' (PPO), or the 'probability'
      of the token, which loses its policy term beyond (DPPO-TV).
    level: whose ratio: of the 'token', or of the response: 'sequence', the
      geometric mean over its tokens, or 'product'.
    log_ratio_limit: log ρ is clamped to ±limit; None: no clamp.
    old: who the ratio divides by: 'old_log_probs', the learner before its
      update, or 'log_probs', the sampler.
    drift_penalty: coefficient of (log ρ)² on every token; only where
      `trust_region` is 'probability'.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.
    empty_rows: whether responses without a token count in means over rows:
      'skip' or 'count'.
    drop_flat: whether groups whose rewards are all equal leave the batch, from
      the KL term and from the number that the loss is divided by, too.
    beta: coefficient of the distance from the reference; 0: no such term.
    kl: its estimator, 'k1', 'k2', 'k3' or 'abs'.
    kl_place: 'loss'; 'reward', before the baseline; or 'advantage', after it,
      as the sum from the token onwards.
    kl_gradient: in the loss, the estimator to differentiate; as `kl` if None.
    kl_ratio: in the loss, whether ρ multiplies the estimate, gradient
      included: 'none', 'old' for ρ as in the clip, or 'one' for a ρ that is 1
      and has the gradient of a ratio.
    kl_input_limit: log π/π_ref is clamped to ±limit.
    kl_output_limit: every estimate is clamped to ±limit.
    k3_input_limit: as `kl_input_limit`, but of k3 alone.
    k3_output_limit: as `kl_output_limit`, but of k3 alone.
    reward_clip: rewards are clamped to ±limit, or None.
    reward_clip_place: 'reward', before the baseline, or 'score', after it; a
      critic has no place after it.
    importance: corrects for a sampler that is not the learner: weights π/μ of
      the policy term, per 'token', 'sequence' (the product) or 'geometric';
      None: no correction beyond the choice of `old`.
    importance_bound: 'truncate', 'mask' (0 out of bounds) or 'none'.
    importance_cap: largest weight.
    importance_floor: smallest weight, or None.
    importance_limit: log π/μ is clamped to ±limit; None: no clamp.
    importance_judge: the level whose ratio a mask judges, as `importance` when
      None.
    gamma: discount per chosen token.
    lam: λ of the advantages and of the value targets.
    observations: what tokens that were not chosen do to the advantages that
      run through them: 'bridge', 'decay' or 'cut'.
    whiten: over the batch's tokens, by the spread of the 'sample' or the
      'population', or 'none'.
    whiten_eps: what keeps the variance from 0.
    whiten_guard: how: it is added to the variance ('add') or the smallest that
      the variance can be ('floor').
    value_coef: weight of the value loss ½(v − G)².
    value_clip: how far a value may move from its old one, or None.
    entropy_coef: weight of the entropy bonus.
    remarks: what of the framework's behaviour these fields do not say.
  """
  source: str
  baseline: str
  std: str
  eps: float
  singleton: str
  clip_low: float
  clip_high: float
  dual_clip: float | None
  log_ratio_limit: ratios.Limit
  old: str
  aggregation: str
  beta: float
  kl: str
  kl_place: str
  trust_region: str = 'ratio'
  level: str = 'token'
  drift_penalty: float = 0.
  max_tokens: int | None = None
  empty_rows: str = 'skip'
  drop_flat: bool = False
  kl_gradient: str | None = None
  kl_ratio: str = 'none'
  kl_input_limit: ratios.Limit = None
  kl_output_limit: ratios.Limit = None
  k3_input_limit: ratios.Limit = None
  k3_output_limit: ratios.Limit = None
  reward_clip: float | None = None
  reward_clip_place: str = 'reward'
  importance: str | None = None
  importance_bound: str = 'truncate'
  importance_cap: float = 2.
  importance_floor: float | None = None
  importance_limit: ratios.Limit = 20.
  importance_judge: str | None = None
  gamma: float = 1.
  lam: float = 1.
  observations: str = 'bridge'
  whiten: str = 'none'
  whiten_eps: float = 1e-8
  whiten_guard: str = 'add'
  value_coef: float = 1.
  value_clip: float | None = None
  entropy_coef: float = 0.
  remarks: str = ''


def check_dialect(d: Dialect) -> None:
  """Raises for a choice that does not exist, or that others rule out.

  Args:
    d: the choices.

  Raises:
    ValueError: names the field, its value and what it may be.

  Example:
    >>> from policyopt.methods.frameworks import dialect
    >>> check_dialect(dialect('trl', 'grpo')._replace(baseline='critic'))
    Traceback (most recent call last):
    ValueError: std is 'sample' and baseline is 'critic'; with that baseline \
it must be one of ('none',)
  """
  for field, allowed in _CHOICES.items():
    value = getattr(d, field)
    if value not in allowed:
      raise ValueError(f'{field} is {value!r}; it must be one of {allowed}')
  spreads = _SPREADS[d.baseline]
  if d.std not in spreads:
    raise ValueError(
        f'std is {d.std!r} and baseline is {d.baseline!r}; with that baseline '
        f'it must be one of {spreads}')
  if d.baseline == 'critic' and d.kl_place == 'advantage':
    raise ValueError(
        "kl_place is 'advantage' and baseline is 'critic'; a critic must see "
        "the price: kl_place must be 'reward' or 'loss'")
  idle = ({'drift_penalty': 0.} if d.trust_region == 'ratio'
          else {'dual_clip': None, 'level': 'token'})
  for field, value in idle.items():
    if getattr(d, field) != value:
      raise ValueError(
          f'{field} is {getattr(d, field)!r} and trust_region is '
          f'{d.trust_region!r}; with that {field} must be {value!r}')
  if d.importance is not None and d.old == 'log_probs':
    raise ValueError(
        f"importance is {d.importance!r} and old is 'log_probs', whose ratio "
        "corrects for the sampler already; old must be 'old_log_probs'")
