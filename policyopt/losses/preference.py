"""Losses that compare responses: pairs of a group, or rows that were judged.

The advantage of a row is its role: of each group the row with the largest is
the chosen one and the row with the smallest the rejected one, if they differ
(see `credit.mark_pairs`). A pair weighs what the tokens of its chosen row weigh
on average, a judged row what its own do.
"""

from __future__ import annotations

import jax.numpy as jnp

from policyopt.losses import base, pairing
from policyopt.names import check_name
from policyopt.ops.pairwise import preferences, reference_free
from policyopt.types import Loss, read_extra


def dpo_loss(
    *,
    kind: str = 'sigmoid',
    beta: float = 0.1,
    label_smoothing: float = 0.,
    divergence: str = 'reverse_kl',
    alpha: float = 0.5,
    tau: float = 0.05,
    average: bool | None = None,
) -> Loss:
  """Σ over pairs of w·ℓ(log π(y⁺), log π(y⁻), log π_ref(y⁺), log π_ref(y⁻)).

  Args:
    kind: ℓ, one of `ops.DPO_KINDS` but those that sort over the batch.
    beta: β.
    label_smoothing: ε.
    divergence: one of `ops.DIVERGENCES`.
    alpha: of the divergence 'alpha'.
    tau: of the kind 'discopop'.
    average: log-probabilities are means over tokens, not sums; None: as the
      kind is used, means for 'ipo' and sums for the others.

  Returns:
    A Loss; needs 'ref_log_probs'. Metrics: 'loss/preference', 'log_prob_gap',
    and of the implicit rewards β·(log π − log π_ref) 'preference/accuracy',
    'preference/margin', 'preference/chosen' and 'preference/rejected'.

  Raises:
    ValueError: an unknown or unsuitable `kind`, `divergence` or
      `label_smoothing`, or `beta` or `tau` not positive.

  Source: "Direct Preference Optimization: Your Language Model is Secretly a
    Reward Model", Rafailov et al., 2023, arXiv:2305.18290.
  """
  preferences.check_dpo(kind, divergence=divergence,
                        label_smoothing=label_smoothing, tau=tau)
  pairing.check_positive(beta=beta)
  if kind.startswith('aot'):
    raise ValueError(
        f'kind is {kind!r}, which sorts over the batch, so its loss is no sum '
        'over microbatches; call ops.dpo_pair_losses on the whole batch, or '
        "take another kind, such as 'sigmoid'")
  average = kind == 'ipo' if average is None else average

  def apply(policy, advantages, weights, rollout):
    mask = rollout.mask
    ref = read_extra(rollout, 'ref_log_probs', 'dpo_loss')
    found = pairing.find_pairs(advantages, weights, rollout)
    logps = found.split(pairing.row_sum(policy.log_probs, mask))
    refs = found.split(pairing.row_sum(ref, mask))
    lengths = found.split(pairing.lengths(mask)) if average else None
    losses = preferences.dpo_pair_losses(
        *logps, *refs, kind=kind, beta=beta, label_smoothing=label_smoothing,
        divergence=divergence, alpha=alpha, tau=tau, lengths=lengths,
        where=found.where)
    rewards = [beta * (x - y) for x, y in zip(logps, refs)]
    result = pairing.pair_loss({'loss/preference': losses}, found, rewards)
    return pairing.with_gap(result, policy, weights, rollout)

  return Loss(apply, frozenset({'ref_log_probs'}))


def _likelihood(coef, found, sums, rollout, reader):
  """The loss term of the chosen rows, if there is one, by metric."""
  if not coef:
    return {}
  length = read_extra(rollout, 'chosen_length', reader)
  chosen, _ = found.split(-sums / length)
  return {'loss/nll': coef * chosen}


def cpo_loss(
    *,
    kind: str = 'sigmoid',
    beta: float = 0.1,
    label_smoothing: float = 0.,
    margin: float = 0.5,
    alpha: float = 0.,
    nll_coef: float = 1.,
    average: bool | None = None,
) -> Loss:
  """Σ over pairs of w·(ℓ(log π(y⁺), log π(y⁻)) + c·NLL(y⁺)); no reference.

  NLL(y⁺) is −log π(y⁺) over the mean length of the batch's chosen rows, so
  that its mean over pairs is the mean over their tokens.

  Args:
    kind: ℓ, one of `ops.CPO_KINDS`.
    beta: β.
    label_smoothing: ε.
    margin: γ of the kind 'simpo'.
    alpha: α of `ops.shaped_reward`.
    nll_coef: c.
    average: log-probabilities in ℓ are means over tokens, not sums; None: as
      the kind is used, means for 'ipo' and 'simpo' and sums for the others.

  Returns:
    A Loss; with c it reads extras['chosen_length'], which
    `credit.chosen_length` derives. Metrics: 'loss/preference', 'loss/nll' if
    c, 'log_prob_gap', and of the implicit rewards β·log π (as they enter ℓ)
    those of `dpo_loss`.

  Raises:
    ValueError: an unknown `kind`, an unsuitable `label_smoothing`, `beta` not
      positive or `nll_coef` negative.

  Source: "Contrastive Preference Optimization: Pushing the Boundaries of LLM
    Performance in Machine Translation", Xu et al., 2024, arXiv:2401.08417.
  """
  reference_free.check_cpo(kind, label_smoothing=label_smoothing)
  pairing.check_positive(beta=beta)
  pairing.check_not_negative(nll_coef=nll_coef)
  average = kind in ('ipo', 'simpo') if average is None else average

  def apply(policy, advantages, weights, rollout):
    mask = rollout.mask
    found = pairing.find_pairs(advantages, weights, rollout)
    sums = pairing.row_sum(policy.log_probs, mask)
    logps = found.split(
        pairing.row_mean(policy.log_probs, mask) if average else sums)
    losses = reference_free.cpo_pair_losses(
        *logps, kind=kind, beta=beta, label_smoothing=label_smoothing,
        margin=margin, alpha=alpha, where=found.where)
    terms = {'loss/preference': losses, **_likelihood(
        nll_coef, found, sums, rollout, 'cpo_loss')}
    result = pairing.pair_loss(terms, found, [beta * x for x in logps])
    return pairing.with_gap(result, policy, weights, rollout)

  return Loss(apply)


def orpo_loss(*, beta: float = 0.1, nll_coef: float = 1.) -> Loss:
  """Σ over pairs of w·(c·NLL(y⁺) − β·log σ(log odds(y⁺) − log odds(y⁻))).

  The odds are those of the geometric mean of the token probabilities, and NLL
  is as in `cpo_loss`.

  Args:
    beta: β.
    nll_coef: c.

  Returns:
    A Loss; with c it reads extras['chosen_length'], which
    `credit.chosen_length` derives. Metrics: 'loss/preference', 'loss/nll' if
    c, 'log_prob_gap', and of the implicit rewards, β times the log-odds, those
    of `dpo_loss`.

  Raises:
    ValueError: `beta` is not positive or `nll_coef` is negative.

  Source: "ORPO: Monolithic Preference Optimization without Reference Model",
    Hong, Lee, Thorne, 2024, arXiv:2403.07691.
  """
  pairing.check_positive(beta=beta)
  pairing.check_not_negative(nll_coef=nll_coef)

  def apply(policy, advantages, weights, rollout):
    mask = rollout.mask
    found = pairing.find_pairs(advantages, weights, rollout)
    logps = found.split(pairing.row_mean(policy.log_probs, mask))
    losses = reference_free.odds_ratio_losses(*logps, where=found.where)
    terms = {'loss/preference': beta * losses, **_likelihood(
        nll_coef, found, pairing.row_sum(policy.log_probs, mask), rollout,
        'orpo_loss')}
    rewards = [beta * reference_free.log_odds(x) for x in logps]
    result = pairing.pair_loss(terms, found, rewards)
    return pairing.with_gap(result, policy, weights, rollout)

  return Loss(apply)


def kto_loss(
    *,
    kind: str = 'kto',
    beta: float = 0.1,
    desirable_weight: float = 1.,
    undesirable_weight: float = 1.,
) -> Loss:
  """Σ over judged rows of w·λ·σ(∓β(log π(y) − log π_ref(y) − z)).

  Rows with a positive advantage are desirable, with a negative one
  undesirable.

  Args:
    kind: 'kto', or 'apo_zero_unpaired', which has z = 0.
    beta: β.
    desirable_weight: λ of desirable rows.
    undesirable_weight: λ of undesirable rows.

  Returns:
    A Loss; needs 'ref_log_probs', and reads z from extras['sampled_kl'], which
    `credit.sampled_divergence` derives. Metrics: 'loss/preference',
    'log_prob_gap', and of the implicit rewards β·(log π − log π_ref)
    'preference/chosen' and 'preference/rejected'.

  Raises:
    ValueError: an unknown `kind`, `beta` not positive or a negative weight.

  Source: "KTO: Model Alignment as Prospect Theoretic Optimization", Ethayarajh
    et al., 2024, arXiv:2402.01306.
  """
  check_name('kind of preference loss', kind, reference_free.KTO_KINDS)
  pairing.check_positive(beta=beta)
  pairing.check_not_negative(desirable_weight=desirable_weight,
                             undesirable_weight=undesirable_weight)

  def apply(policy, advantages, weights, rollout):
    mask = rollout.mask
    ref = read_extra(rollout, 'ref_log_probs', 'kto_loss')
    kl = 0. if kind != 'kto' else read_extra(rollout, 'sampled_kl', 'kto_loss')
    role = pairing.row_mean(advantages, mask)
    weight = pairing.row_mean(weights, mask)
    judged = (role != 0) & (weight != 0) & (rollout.group >= 0)
    log_ratios = (pairing.row_sum(policy.log_probs, mask)
                  - pairing.row_sum(ref, mask))
    losses = reference_free.kto_row_losses(
        log_ratios, role > 0, kl, kind=kind, beta=beta,
        desirable_weight=desirable_weight,
        undesirable_weight=undesirable_weight, where=judged)
    loss, metrics = pairing.weighted_entries(
        'loss/preference', losses, jnp.where(judged, weight, 0))
    for name, side in (('chosen', role > 0), ('rejected', role < 0)):
      metrics[f'preference/{name}'] = base.mean_metric(
          beta * log_ratios, judged & side)
    return pairing.with_gap((loss, metrics), policy, weights, rollout)

  return Loss(apply, frozenset({'ref_log_probs'}))
