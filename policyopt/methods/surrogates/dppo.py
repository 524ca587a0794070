"""DPPO, Divergence Proximal Policy Optimization.

"Rethinking the Trust Region in LLM Reinforcement Learning", Penghui Qi,
Xiangxin Zhou, Zichen Liu, Tianyu Pang, Chao Du, Min Lin, Wee Sun Lee, 2026,
arXiv:2602.04879.

The ratio of a rare token says little about how far the policy has moved, and
that of a common one hides it. A token is dropped when its own probability has
moved too far in the direction that its advantage pushes it, measured as the
divergence of the two outcomes "this token" and "another one":

  tv: p − p_old ≤ δ where A > 0, p − p_old ≥ −δ elsewhere
  kl: KL(p_old ‖ p) ≤ δ, or p on the other side of p_old
  L = (1 / N) Σ over all N tokens of −Mₜ·sg(min(ρₜ, c))·Aₜ·log π(yₜ)

Equals grpo(beta=0, aggregation='token_mean') without a clip for
gradient='ratio' when M drops nothing and no ratio is above c.

prime-rl's default loss is gradient='ratio' with divergence 'tv', bounds of 0.2,
penalty=1e-3 and no c (here: one that no ratio reaches). The defaults here are
those of verl, which has the authors' code. A probability above 1 is no
probability: its KL counts as infinite, where verl's is not a number.
"""

from __future__ import annotations

from policyopt import credit, losses, planning, rollouts
from policyopt.types import Method

_BOUNDS = {'tv': 0.15, 'kl': 0.05}


def dppo(
    *,
    std: str = 'sample',
    eps: float = 1e-6,
    singleton: str = 'zero',
    divergence: str = 'tv',
    max_fall: float | None = None,
    max_rise: float | None = None,
    ratio_cap: float | None = 20.,
    gradient: str = 'likelihood',
    penalty: float = 0.,
    old: str = 'log_probs',
    aggregation: str = 'token_mean',
    max_tokens: int | None = None,
) -> Method:
  """DPPO: a bound on the divergence of each token instead of its ratio.

  Args:
    std: 'sample', 'population' or 'none' (only the mean is removed).
    eps: added to the standard deviation.
    singleton: what a group of one gets: 'zero' or 'raw'.
    divergence: 'tv' (difference of probabilities) or 'kl', of two outcomes.
    max_fall: δ for tokens that are pushed down; None: 0.15 for 'tv', 0.05
      for 'kl'.
    max_rise: δ for tokens that are pushed up; None: likewise.
    ratio_cap: c, or None.
    gradient: 'likelihood', or 'ratio' to maximise M·min(ρ, c)·A itself.
    penalty: price of (log ρ)² on every token, dropped ones included.
    old: 'log_probs' or 'old_log_probs', as in `grpo`.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method.

  Raises:
    ValueError: an unknown `divergence`, `gradient`, `old` or `aggregation`.

  Source: "Rethinking the Trust Region in LLM Reinforcement Learning", Qi et
    al., 2026, arXiv:2602.04879.

  Example:
    >>> sorted(dppo(divergence='kl').loss.needs)
    []
  """
  bound = _BOUNDS.get(divergence, 0.)
  return Method(
      rewards=credit.identity(),
      advantages=credit.group_standardize(
          std=std, eps=eps, singleton=singleton),
      weights=credit.aggregate(aggregation, length=max_tokens),
      loss=losses.dppo_surrogate(
          bound if max_fall is None else max_fall,
          bound if max_rise is None else max_rise,
          divergence=divergence, ratio_cap=ratio_cap, gradient=gradient,
          penalty=penalty, old=old),
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      min_group=2)
