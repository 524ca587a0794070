"""OTB, the optimal token baseline.

"The Optimal Token Baseline: Variance Reduction for Long-Horizon LLM-RL", Yingru
Li, Jiawei Xu, Ziniu Li, Jiacai Liu, Wei Liu, Yuxuan Tong, Longtao Zheng,
Zhenghai Xue, Yaxiang Zhang, Tianle Cai, Ge Zhang, Qian Liu, Baoxiang Wang,
2026, arXiv:2602.07078.

The baseline of least variance weighs the returns of a group by the squared norm
of the gradient that has piled up so far, token by token. The norm of the
gradient by the logits stands in for it and costs no backward pass:

  wₜ = 1 − 2π(yₜ) + Σ_v π(v)²,  Wₜ = Σ_{j ≤ t} wⱼ
  Bₜ = Σᵢ GᵢₜWᵢₜ / Σᵢ Wᵢₜ over the responses of the group at t,  Aₜ = Gₜ − Bₜ
  L = token mean of −min(ρₜAₜ, clip(ρₜ, 1 − ε, 1 + ε)·Aₜ)

`variant='valid'` compares tokens with equally many chosen tokens before them
instead of equally far from the start, for responses with tool output (TIR-OTB).

Differs from the authors' code (in verl): where no other response of the group
has a token there is no baseline, also before the end of the second longest one;
there it would be the response's own return (`tail='length'` is their rule). A
group of one gets 0 instead of its return, unless `singleton` says otherwise.
"""

from __future__ import annotations

from policyopt import credit, losses, planning, rollouts
from policyopt.types import Method


def otb(
    *,
    variant: str = 'position',
    tail: str = 'alone',
    eps: float = 1e-8,
    singleton: str = 'zero',
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    old: str = 'log_probs',
    aggregation: str = 'token_mean',
    max_tokens: int | None = None,
) -> Method:
  """OTB: A = return to go − the group's return weighted by gradient energy.

  Args:
    variant: which tokens are compared: 'position' those equally far from the
      first chosen token, 'valid' those with as many chosen ones before them.
    tail: where there is no baseline: 'alone', 'length' or 'none' (see
      `ops.optimal_token_baseline`).
    eps: added to the sum of W.
    singleton: what a group of one gets: 'zero', or 'raw' for its return.
    clip_low: how far the ratio may fall below 1.
    clip_high: how far the ratio may rise above 1.
    dual_clip: bound c on the ratio where the advantage is negative, or None.
    old: 'log_probs' or 'old_log_probs', as in `grpo`; π of the energy too.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method; needs 'sum_squared_probs'.

  Raises:
    ValueError: an unknown `variant`, `tail`, `singleton`, `old` or
      `aggregation`.

  Source: "The Optimal Token Baseline: Variance Reduction for Long-Horizon
    LLM-RL", Li et al., 2026, arXiv:2602.07078.

  Example:
    >>> sorted(otb().advantages.needs)
    ['sum_squared_probs']
  """
  return Method(
      rewards=credit.identity(),
      advantages=credit.subtract_token_baseline(
          variant=variant, tail=tail, eps=eps, singleton=singleton, old=old),
      weights=credit.aggregate(aggregation, length=max_tokens),
      loss=losses.clipped_surrogate(
          clip_low, clip_high, dual_clip=dual_clip, old=old),
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      min_group=2)
