"""KTO, Kahneman-Tversky Optimization, online.

"KTO: Model Alignment as Prospect Theoretic Optimization", Kawin Ethayarajh,
Winnie Xu, Niklas Muennighoff, Dan Jurafsky, Douwe Kiela, 2024,
arXiv:2402.01306.

No pairs: each response is desirable or undesirable by itself, and is judged by
how far its log-ratio lies from the divergence z between policy and reference.
With Δ = log π(y) − log π_ref(y),

  z = max(0, mean over the rows of the batch of log π_old(y) − log π_ref(y))
  L = mean over judged rows of  λ⁺·σ(−β(Δ − z)) if desirable,
                                λ⁻·σ(β(Δ − z))  if not

Equals kto(kind='apo_zero_unpaired') when z = 0.

Differs from the authors' code: there z is measured on completions that are
paired with other prompts, as their data were not drawn from the policy; here
every row was, so z is the mean over the rows themselves. What is desirable is
decided by the reward: more than the mean of the group, or than a threshold.
"""

from __future__ import annotations

from policyopt import credit, losses, planning, rollouts
from policyopt.types import Method


def kto(
    *,
    kind: str = 'kto',
    beta: float = 0.1,
    desirable_weight: float = 1.,
    undesirable_weight: float = 1.,
    threshold: float | None = None,
) -> Method:
  """KTO: responses that are good or bad by themselves.

  Args:
    kind: 'kto', or 'apo_zero_unpaired', which has z = 0.
    beta: β.
    desirable_weight: λ⁺.
    undesirable_weight: λ⁻.
    threshold: a row is desirable if it earns more than this, else undesirable;
      None: compared with the mean of its group, where a row that earns exactly
      the mean is not judged.

  Returns:
    A Method; needs 'ref_log_probs'.

  Raises:
    ValueError: an unknown `kind`, `beta` not positive or a negative weight.

  Source: "KTO: Model Alignment as Prospect Theoretic Optimization", Ethayarajh
    et al., 2024, arXiv:2402.01306.

  Example:
    >>> kto().min_group, kto(threshold=.5).min_group
    (2, 1)
  """
  return Method(
      rewards=credit.identity(),
      advantages=credit.mark_desirable(threshold=threshold),
      weights=credit.weigh_judged(threshold=threshold),
      loss=losses.kto_loss(
          kind=kind, beta=beta, desirable_weight=desirable_weight,
          undesirable_weight=undesirable_weight),
      derived=credit.sampled_divergence() if kind == 'kto' else None,
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      min_group=2 if threshold is None else 1)
