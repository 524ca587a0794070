"""CAPO, Curvature-Aware Policy Optimization.

"Stabilizing Policy Gradients for Sample-Efficient Reinforcement Learning in
LLM Reasoning", Luckeciano C. Melo, Alessandro Abate, Yarin Gal, 2025,
arXiv:2510.00819.

GRPO that leaves out the tokens which would move the policy too far, so that it
bears large learning rates. A model of the output layer alone predicts what a
step of size η on one token does. With the last hidden state h, the candidates'
probabilities π, v = e_a − π and the step's direction D on the head's rows:

  u = D h;  D = A·v hᵀ (SGD), or Adam's direction by moments kept for each row
  m_H = η·A·(v·u) + ½η²·A·[(v·u)² − Var_π(u)]   change of the objective
  m_F = ½η²·(v·u)²                              change of the policy, a KL
  kept: |m_H| < τ_H and m_F < τ_F

Rejected tokens count in no row's length, rejected rows still count as rows.
Three variants: 'capo' on GRPO; 'dr_capo' on Dr. GRPO (no std, constant
length); 'rein_capo' on REINFORCE (A = R).

Equals grpo(beta=0, eps=1e-4) for τ_H = τ_F = ∞.

Differs from the authors' code: h is the state that predicts the token, theirs
the state at the token itself, by a slip of one place; when everything is
rejected the loss is 0, theirs stops.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from policyopt import credit, losses, ops, planning, rollouts
from policyopt.types import Array, CreditTransform, Method, read_extra

# variant -> (τ_H, τ_F)
LIMITS = {'capo': (1e-2, 1e-4), 'dr_capo': (5e-4, 1e-3),
          'rein_capo': (1e-1, 1e-5)}
MODELS = ('adam', 'sgd')
_NEEDS = frozenset({
    'hidden_states', 'top_probs', 'top_ids', 'learning_rate', 'token_rewards'})


class _Model(NamedTuple):
  """The output layer's model of a batch; g = A·v."""
  mask: Array
  hidden: Array
  gradient: Array
  ids: Array
  objective: Array
  divergence: Array


def _model(x, moments, rollout, advantages, top_k, b1, b2, eps) -> _Model:
  """What a step on each of the tokens that still count would do."""
  extra = {name: read_extra(rollout, name, 'reject_by_curvature')
           for name in _NEEDS}
  mask = credit.taking_part(rollout) & (x != 0)
  wide = mask[:, :, None]
  hidden = jnp.where(wide, ops.as_float(extra['hidden_states']), 0)
  if moments and moments.mean.shape[1] != hidden.shape[2]:
    raise ValueError(
        f'width is {moments.mean.shape[1]}; the hidden states of this policy '
        f'have {hidden.shape[2]}')
  ids = jnp.where(wide, extra['top_ids'], 0)[..., :top_k]
  probs, score = ops.candidate_scores(
      rollout.tokens, ids, jnp.where(wide, extra['top_probs'], 0), top_k)
  gain, _ = advantages.update(
      extra['token_rewards'], advantages.init(), rollout)
  gradient = gain[:, :, None] * score
  change = ops.logit_change(
      hidden, gradient, ids, moments or None, b1=b1, b2=b2, eps=eps)
  return _Model(mask, hidden, gradient, ids, *ops.predicted_change(
      change, score, probs, gain, extra['learning_rate'][:, None]))


def _shapes(optimizer_model, vocab_size, width):
  """Of the moments that the optimizer's model keeps; () for SGD."""
  if optimizer_model not in MODELS:
    raise ValueError(
        f'optimizer_model is {optimizer_model!r}; it must be one of {MODELS}')
  if optimizer_model == 'sgd':
    return ()
  for name, value in (('vocab_size', vocab_size), ('width', width)):
    if value is None or value < 1:
      raise ValueError(
          f"{name} is {value}; optimizer_model='adam' keeps moments of the "
          "output layer and needs the policy's own")
  return jax.eval_shape(lambda: ops.empty_moments(vocab_size, width))


def reject_by_curvature(
    advantages: CreditTransform,
    *,
    objective_limit: float,
    divergence_limit: float,
    one_sided: bool = False,
    optimizer_model: str = 'adam',
    vocab_size: int | None = None,
    width: int | None = None,
    top_k: int = 50,
    b1: float = 0.9,
    b2: float = 0.999,
    adam_eps: float = 1e-8,
) -> CreditTransform:
  """Weight 0 for tokens that would move the policy too far.

  Args:
    advantages: stateless, what makes the advantages from 'token_rewards'.
    objective_limit: τ_H.
    divergence_limit: τ_F.
    one_sided: rejects m_H < 0 too, instead of −τ_H and less.
    optimizer_model: 'adam' or 'sgd'.
    vocab_size: V of the policy; for 'adam' only.
    width: D of the policy; for 'adam' only.
    top_k: candidates of a token; as many as there are if fewer.
    b1: Adam's decay of the first moment.
    b2: Adam's decay of the second moment.
    adam_eps: added to the root of the second moment.

  Returns:
    A CreditTransform for weights, whose state is a `HeadMoments`, or () for
    'sgd'. Metrics: 'capo/rejected', a fraction of the chosen tokens, and the
    means 'capo/objective' of m_H and 'capo/divergence' of m_F.

  Raises:
    ValueError: an unknown `optimizer_model`, 'adam' without `vocab_size` and
      `width`, `top_k` below 1, or a decay outside [0, 1).

  Source: "Stabilizing Policy Gradients for Sample-Efficient Reinforcement
    Learning in LLM Reasoning", Melo, Abate, Gal, 2025, arXiv:2510.00819.
  """
  shapes = _shapes(optimizer_model, vocab_size, width)
  if top_k < 1:
    raise ValueError(f'top_k is {top_k}; it must be at least 1')
  for name, value in (('b1', b1), ('b2', b2)):
    if not 0 <= value < 1:
      raise ValueError(f'{name} is {value}; it must be in [0, 1)')

  def judge(x, state, rollout):
    model = _model(
        x, state, rollout, advantages, top_k, b1, b2, adam_eps)
    return model, model.mask & ops.within_limits(
        model.objective, model.divergence, objective_limit, divergence_limit,
        one_sided=one_sided)

  def init():
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

  def update(x, state, rollout):
    model, accepted = judge(x, state, rollout)
    if state:
      state = ops.update_moments(
          state, model.hidden, model.gradient, model.ids, accepted, b1=b1,
          b2=b2)
    return jnp.where(accepted, x, 0), state

  def metrics(x, state, rollout):
    model, accepted = judge(x, state, rollout)
    count = jnp.sum(model.mask, dtype=jnp.float32)
    return {
        'capo/rejected': (ops.masked_sum(~accepted, model.mask), count),
        'capo/objective': (ops.masked_sum(model.objective, model.mask), count),
        'capo/divergence': (
            ops.masked_sum(model.divergence, model.mask), count)}

  return CreditTransform(init, update, _NEEDS, metrics)


def mean_over_accepted() -> CreditTransform:
  """wₜ / (R·n): n the row's tokens of weight not 0, R all rows with a token.

  Returns:
    A CreditTransform for weights.
  """
  def weigh(x, rollout):
    mask = credit.taking_part(rollout)
    rows = jnp.sum(jnp.any(mask, axis=1), dtype=x.dtype)
    return ops.sequence_mean(x, mask & (x != 0), rows=jnp.maximum(rows, 1))

  return credit.stateless(weigh)


def capo(
    *,
    variant: str = 'capo',
    tau_h: float | None = None,
    tau_f: float | None = None,
    one_sided: bool = False,
    optimizer_model: str = 'adam',
    vocab_size: int | None = None,
    width: int | None = None,
    top_k: int = 50,
    b1: float = 0.9,
    b2: float = 0.999,
    adam_eps: float = 1e-8,
    eps: float = 1e-4,
    singleton: str = 'zero',
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    old: str = 'log_probs',
    max_tokens: int | None = None,
) -> Method:
  """CAPO: GRPO without the tokens whose predicted step is too large.

  Args:
    variant: 'capo', 'dr_capo' or 'rein_capo'.
    tau_h: τ_H; the variant's own when None (0.01, 5e-4, 0.1).
    tau_f: τ_F; the variant's own when None (1e-4, 1e-3, 1e-5).
    one_sided: rejects m_H < 0 too.
    optimizer_model: 'adam' or 'sgd', of the policy's optimizer.
    vocab_size: V of the policy; for 'adam' only.
    width: D of the policy; for 'adam' only.
    top_k: candidates of a token.
    b1: decay of the first moment, as the optimizer has it.
    b2: decay of the second moment.
    adam_eps: added to the root of the second moment.
    eps: added to the standard deviation, for 'capo' only.
    singleton: what a group of one gets: 'zero' or 'raw'.
    clip_low: how far the ratio may fall below 1.
    clip_high: how far the ratio may rise above 1.
    old: 'log_probs' or 'old_log_probs', as in `grpo`.
    max_tokens: the constant length of 'dr_capo', in tokens.

  Returns:
    A Method; needs 'hidden_states', 'top_probs', 'top_ids', 'learning_rate'.

  Raises:
    ValueError: an unknown `variant`, 'dr_capo' without `max_tokens`, or as
      `reject_by_curvature`.

  Source: "Stabilizing Policy Gradients for Sample-Efficient Reinforcement
    Learning in LLM Reasoning", Melo, Abate, Gal, 2025, arXiv:2510.00819.

  Example:
    >>> capo(optimizer_model='sgd', variant='rein_capo').min_group
    1
  """
  if variant not in LIMITS:
    raise ValueError(
        f'variant is {variant!r}; it must be one of {tuple(LIMITS)}')
  if variant == 'dr_capo' and max_tokens is None:
    raise ValueError(
        "max_tokens is None; variant='dr_capo' needs a length in tokens")
  default_h, default_f = LIMITS[variant]
  if variant == 'rein_capo':
    advantages = credit.sequence_return()
  else:
    advantages = credit.group_standardize(
        std='sample' if variant == 'capo' else 'none', eps=eps,
        singleton=singleton)
  reject = reject_by_curvature(
      advantages, objective_limit=default_h if tau_h is None else tau_h,
      divergence_limit=default_f if tau_f is None else tau_f,
      one_sided=one_sided, optimizer_model=optimizer_model,
      vocab_size=vocab_size, width=width, top_k=top_k, b1=b1, b2=b2,
      adam_eps=adam_eps)
  mean = mean_over_accepted()
  if variant == 'dr_capo':
    mean = credit.constant_length(max_tokens, count='mask')
  return Method(
      rewards=credit.identity(),
      advantages=advantages,
      weights=credit.chain(reject, mean),
      loss=losses.clipped_surrogate(clip_low, clip_high, old=old),
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      min_group=1 if variant == 'rein_capo' else 2)
