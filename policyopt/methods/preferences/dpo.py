"""DPO, Direct Preference Optimization, and its relatives, online.

"Direct Preference Optimization: Your Language Model is Secretly a Reward
Model", Rafael Rafailov, Archit Sharma, Eric Mitchell, Stefano Ermon,
Christopher D. Manning, Chelsea Finn, 2023, arXiv:2305.18290; other divergences:
"Beyond Reverse KL: Generalizing Direct Preference Optimization with Diverse
Divergence Constraints", Chaoqi Wang, Yibo Jiang, Chenghao Yang, Han Liu, Yuxin
Chen, 2023, arXiv:2309.16240.

The best-rewarded response of a group, y⁺, is preferred to the worst one, y⁻.
With the log-ratios a = log π(y⁺) − log π_ref(y⁺) and b, the same of y⁻,

  L = −mean over pairs of log σ(β(a − b))

or another function of a and b, by `kind` (see `ops.dpo_pair_losses`). With
another divergence f than the reverse KL, f′(eᵃ) − f′(eᵇ) stands for a − b.

Equals cpo(nll_coef=0) when the reference gives both responses of every pair
the same probability.

Differs from the papers: they learn from pairs that were collected before; here
the pairs are drawn from the policy and ranked by the reward. A group whose rows
all earn the same gives no pair.
"""

from __future__ import annotations

from policyopt import credit, losses, planning, rollouts
from policyopt.types import Method


def dpo(
    *,
    kind: str = 'sigmoid',
    beta: float = 0.1,
    label_smoothing: float = 0.,
    divergence: str = 'reverse_kl',
    alpha: float = 0.5,
    tau: float = 0.05,
    average: bool | None = None,
) -> Method:
  """DPO: the best response of a group against its worst.

  Args:
    kind: 'sigmoid', 'hinge', 'ipo', 'exo_pair', 'nca_pair', 'robust',
      'bco_pair', 'sppo_hard', 'apo_zero', 'apo_down' or 'discopop'.
    beta: β.
    label_smoothing: ε, the chance that a preference is the wrong way round: of
      'sigmoid' (conservative DPO), 'robust' and 'exo_pair' (which wants one
      above 0).
    divergence: 'reverse_kl', 'forward_kl', 'js' or 'alpha'; others than the
      first go with 'sigmoid', 'hinge', 'ipo', 'exo_pair', 'robust' and
      'discopop'.
    alpha: of the divergence 'alpha'; 1 is reverse_kl and 0 forward_kl.
    tau: of the kind 'discopop'.
    average: log-probabilities are means over the tokens of a response, not
      sums; None: means for 'ipo', sums for the others.

  Returns:
    A Method; needs 'ref_log_probs'.

  Raises:
    ValueError: an unknown `kind` or `divergence`, a `kind` that sorts over the
      batch ('aot', 'aot_unpaired'), or an unsuitable `label_smoothing`, `beta`
      or `tau`.

  Source: "Direct Preference Optimization: Your Language Model is Secretly a
    Reward Model", Rafailov et al., 2023, arXiv:2305.18290.

  Example:
    >>> sorted(dpo().loss.needs)
    ['ref_log_probs']
  """
  return Method(
      rewards=credit.identity(),
      advantages=credit.mark_pairs(),
      weights=credit.weigh_pairs(),
      loss=losses.dpo_loss(
          kind=kind, beta=beta, label_smoothing=label_smoothing,
          divergence=divergence, alpha=alpha, tau=tau, average=average),
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      min_group=2)
