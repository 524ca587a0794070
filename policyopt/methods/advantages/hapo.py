"""HAPO, Heterogeneous Adaptive Policy Optimization.

"From Uniform to Heterogeneous: Tailoring Policy Optimization to Every Token's
Nature", Zheng Liu, Mengjie Liu, Siwei Wen, Mengzhang Cai, Bin Cui, Conghui He,
Wentao Zhang, 2025, arXiv:2509.16591.

DAPO in which every stage looks at the entropy Hₜ of the token's distribution.
ĥₜ in [−1, 1] says where log Hₜ lies: 0 at a high quantile of the batch, 1 at
the token of the highest entropy, −1 at that of the lowest.

  A  sampling: temperature T·(1 + τĥ), by the scale of the batch before
  B  advantage: (R − μ) / σ with μ and σ over the TOKENS of the group
  C  redistribution: A·(1 + βĥ) for undecided tokens (ĥ > 0) whose ratio has
     moved by more than half of the clip range, and for confident ones (ĥ ≤ 0)
     whose ratio has not
  D  clip: ε_low·(1 − αĥ) for confident tokens, ε_high·(1 + αĥ) for undecided

Each can be switched off: tau=0, token_average=False, adv_beta=0, clip_alpha=0.
Equals dapo when all are off, without the dual clip.

Differs from the authors' code: ĥ is negative below the pivot, as the text says;
their sign slip makes it |ĥ| (`signed=False`). The limit on |A|, at which a
group falls back to the mean of its rows, is tested on chosen tokens; theirs
counts padding too (`count_padding=True`). The scale is taken from the whole
batch of rollouts and from their own entropies, theirs from each microbatch and
the policy under update. The heated sampler's ratios are measured against the
learner's own log-probabilities (`old`), as there.
"""

from __future__ import annotations

import jax.numpy as jnp

from policyopt import credit, losses, ops, planning, rollouts
from policyopt.credit import reports
from policyopt.types import CreditTransform, Method, read_extra


def token_group_standardize(
    *,
    std: str = 'population',
    eps: float = 1e-6,
    limit: float | None = 5.,
    count_padding: bool = False,
    singleton: str = 'zero',
) -> CreditTransform:
  """Aₜ = (R − μ) / (σ + eps), μ and σ over the tokens of the group.

  Args:
    std: 'population', 'sample' or 'none' (only the mean is removed).
    eps: added to σ.
    limit: the |A| at which a group is measured by its rows instead; None:
      never.
    count_padding: whether padding counts, with reward 0, in that test.
    singleton: what a group of one gets then: 'zero' or 'raw'.

  Returns:
    A CreditTransform for advantages.

  Raises:
    ValueError: an unknown `std` or `singleton`.

  Source: "From Uniform to Heterogeneous: Tailoring Policy Optimization to
    Every Token's Nature", Liu et al., 2025, arXiv:2509.16591.
  """
  ops.check_rules(std=std, singleton=singleton)

  def standardize(x, rollout):
    return credit.spread_rows(ops.token_group_standardize(
        credit.row_rewards(x, rollout), rollout.mask, rollout.group, std=std,
        eps=eps, limit=limit, count_padding=count_padding,
        singleton=singleton), rollout)

  return credit.stateless(standardize)


def score_entropy(
    *, tau: float = 0.1, quantile: float = 0.8, signed: bool = True,
) -> CreditTransform:
  """Supplies 'entropy_score', ĥ f32[B, T]; its state is the next `Heat`.

  Args:
    tau: τ, the strength of the heat.
    quantile: of the log-entropies, where ĥ is 0.
    signed: False gives |ĥ|, as the authors' code does.

  Returns:
    A CreditTransform for `Method.derived`; needs 'entropy'. Metrics:
    'hapo/pivot' and 'hapo/spread' of the batch's log-entropies, 'hapo/heat',
    the mean of 1 + τĥ over its tokens by the scale of the batch before.

  Raises:
    ValueError: `quantile` is not in [0, 1], `tau` not in [0, 1).

  Source: "From Uniform to Heterogeneous: Tailoring Policy Optimization to
    Every Token's Nature", Liu et al., 2025, arXiv:2509.16591.
  """
  if not 0 <= quantile <= 1:
    raise ValueError(f'quantile is {quantile}; it must lie in [0, 1]')
  if not 0 <= tau < 1:
    raise ValueError(f'tau is {tau}; it must be at least 0 and less than 1')

  def init():
    return ops.Heat(*map(jnp.float32, (0., 0., 1., 1., 1.)))

  def measure(rollout):
    entropy = read_extra(rollout, 'entropy', 'score_entropy')
    mask = credit.taking_part(rollout)
    scale = ops.fit_entropy_scale(entropy, mask, quantile=quantile)
    return entropy, mask, scale

  def update(x, state, rollout):
    del x
    entropy, mask, scale = measure(rollout)
    score = ops.entropy_score(
        ops.fill(entropy, mask), scale, signed=signed)
    # A batch without tokens leaves the sampler as it was.
    seen = jnp.any(mask)
    state = ops.Heat(*(
        jnp.where(seen, new, old).astype(jnp.float32)
        for new, old in zip((tau, *scale), state)))
    return {'entropy_score': ops.fill(score, mask)}, state

  def metrics(x, state, rollout):
    del x
    entropy, mask, scale = measure(rollout)
    factor = ops.heated(ops.fill(entropy, mask), state)
    return {
        'hapo/pivot': reports.batch_metric(scale.pivot, rollout),
        'hapo/spread': reports.batch_metric(scale.spread, rollout),
        'hapo/heat': (ops.masked_sum(factor, mask),
                      ops.masked_sum(jnp.ones_like(factor), mask))}

  return CreditTransform(init, update, frozenset({'entropy'}), metrics)


def hapo(
    *,
    tau: float = 0.1,
    token_average: bool = True,
    adv_beta: float = 1.,
    clip_alpha: float = 1.,
    quantile: float = 0.8,
    signed: bool = True,
    fallback: float | None = 5.,
    count_padding: bool = False,
    eps: float = 1e-6,
    singleton: str = 'zero',
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float | None = 10.,
    old: str = 'old_log_probs',
    aggregation: str = 'token_mean',
    max_tokens: int | None = None,
    rounds: int = 3,
    max_length: int | None = None,
    buffer: int | None = None,
    factor: float = 1.,
) -> Method:
  """HAPO: DAPO with heat, baseline, advantage and clip by the token's entropy.

  Args:
    tau: τ, by which fraction the temperature moves; 0 switches A off.
    token_average: False takes dapo's mean and std over rows (B off).
    adv_beta: β of the redistribution; 0 switches C off.
    clip_alpha: α of the clip; 0 switches D off.
    quantile: of the log-entropies, where ĥ is 0.
    signed: False takes |ĥ|, as the authors' code does.
    fallback: the |A| at which a group is measured by its rows; None: never.
    count_padding: whether padding counts in that test, as in their code.
    eps: added to the standard deviation.
    singleton: what a group of one gets by its rows: 'zero' or 'raw'.
    clip_low: how far the ratio may fall below 1.
    clip_high: how far the ratio may rise above 1.
    dual_clip: bound c on the ratio where the advantage is negative, or None.
    old: 'old_log_probs', or 'log_probs': with τ > 0 the sampler's are those of
      the heated distribution.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.
    rounds: rounds of sampling at most, as in `dapo`.
    max_length: tokens at which the whole overlong penalty is due; None: none.
    buffer: tokens before that over which the penalty grows.
    factor: the whole penalty; the authors warn of it beside B.

  Returns:
    A Method; needs 'entropy'.

  Raises:
    ValueError: as `dapo`, or `tau`, `quantile`, `adv_beta` or `clip_alpha` out
      of range.

  Source: "From Uniform to Heterogeneous: Tailoring Policy Optimization to
    Every Token's Nature", Liu et al., 2025, arXiv:2509.16591.

  Example:
    >>> method = hapo()
    >>> float(method.heat(method.derived.init()).strength)
    0.0
  """
  if (max_length is None) != (buffer is None):
    raise ValueError(
        f'max_length is {max_length} and buffer is {buffer}; the overlong '
        'penalty needs both, or neither')
  rewards = credit.identity()
  if max_length is not None:
    rewards = credit.overlong_penalty(max_length, buffer, factor)
  advantages = credit.group_standardize(eps=eps, singleton=singleton)
  if token_average:
    advantages = token_group_standardize(
        eps=eps, limit=fallback, count_padding=count_padding,
        singleton=singleton)
  return Method(
      rewards=rewards,
      advantages=advantages,
      weights=credit.chain(
          credit.drop_flat_groups(),
          credit.aggregate(aggregation, length=max_tokens)),
      loss=losses.heterogeneous_surrogate(
          clip_low, clip_high, clip_alpha=clip_alpha, adv_beta=adv_beta,
          dual_clip=dual_clip, old=old),
      derived=score_entropy(tau=tau, quantile=quantile, signed=signed),
      # The state of `derived` is the sampler's Heat.
      heat=(lambda state: state) if tau else None,
      plan=planning.oversample(planning.uniform_prompts(), rounds),
      rollout=rollouts.refill_flat_groups(rounds),
      min_group=2)
