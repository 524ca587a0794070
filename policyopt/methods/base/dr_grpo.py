"""Dr. GRPO, GRPO Done Right.

"Understanding R1-Zero-Like Training: A Critical Perspective", Zichen Liu,
Changyu Chen, Wenjun Li, Penghui Qi, Tianyu Pang, Chao Du, Wee Sun Lee, Min Lin,
2025, arXiv:2503.20783.

GRPO without the two divisions that bias it: by the row's length, which favours
long wrong answers, and by the group's spread, which favours very easy and very
hard prompts:

  Aₜ = R − mean of the group
  L = mean over rows of Σₜ −min(ρₜAₜ, clip(ρₜ, 1 − ε, 1 + ε)·Aₜ) / max_tokens

The constant is the generation budget, as in the authors' code; it only scales
the learning rate.

Equals grpo(std='none', beta=0, aggregation='constant_length').
"""

from __future__ import annotations

from policyopt.methods.base.grpo import grpo
from policyopt.types import Method


def dr_grpo(
    *,
    max_tokens: int,
    singleton: str = 'zero',
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    old: str = 'log_probs',
    beta: float = 0.,
    kl: str = 'k3',
    kl_gradient: str | None = None,
) -> Method:
  """Dr. GRPO: A = R − μ, token sums over one constant.

  Args:
    max_tokens: the constant, the longest response allowed, in tokens.
    singleton: what a group of one gets: 'zero' or 'raw'.
    clip_low: how far the ratio may fall below 1.
    clip_high: how far the ratio may rise above 1.
    dual_clip: bound c on the ratio where the advantage is negative, or None.
    old: 'log_probs' or 'old_log_probs', as in `grpo`.
    beta: β of the KL term; with 0 no reference model is needed.
    kl: estimator of its value, 'k1', 'k2', 'k3' or 'abs'.
    kl_gradient: estimator of its gradient; as `kl` when None.

  Returns:
    A Method.

  Raises:
    ValueError: `max_tokens` is not positive, or as `grpo`.

  Source: "Understanding R1-Zero-Like Training: A Critical Perspective", Liu et
    al., 2025, arXiv:2503.20783.

  Example:
    >>> dr_grpo(max_tokens=64).min_group
    2
  """
  return grpo(
      std='none', singleton=singleton, clip_low=clip_low, clip_high=clip_high,
      dual_clip=dual_clip, old=old, beta=beta, kl=kl, kl_gradient=kl_gradient,
      aggregation='constant_length', max_tokens=max_tokens)
