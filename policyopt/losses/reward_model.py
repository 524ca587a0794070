"""Training a reward model on pairs of responses."""

from __future__ import annotations

import jax.numpy as jnp

from policyopt.losses import base, pairing
from policyopt.ops import masking
from policyopt.ops.pairwise import margins
from policyopt.types import Loss, read_extra


def pairwise_reward_loss(*, margin_coef: float = 0.) -> Loss:
  """Σ over pairs of −w·log σ(r(y⁺) − r(y⁻) − m): trains a reward model.

  r is the value head at the last chosen token: it has read all of the response
  before that token. m is `margin_coef` times the difference of the rewards.

  Args:
    margin_coef: how much further apart clearer pairs have to be; 0: m = 0.

  Returns:
    A Loss; needs 'values' of the policy, and 'token_rewards' for a margin.
    Metrics: 'loss/reward_model', and of the scores 'preference/accuracy',
    'preference/margin', 'preference/chosen' and 'preference/rejected'.

  Raises:
    ValueError: `margin_coef` is negative.

  Source: "Training a Helpful and Harmless Assistant with Reinforcement Learning
    from Human Feedback", Bai et al., 2022, arXiv:2204.05862; the margin: "Llama
    2: Open Foundation and Fine-Tuned Chat Models", Touvron et al., 2023,
    arXiv:2307.09288.
  """
  pairing.check_not_negative(margin_coef=margin_coef)

  def apply(policy, advantages, weights, rollout):
    mask = rollout.mask
    values = base.read_policy(policy, 'values', 'pairwise_reward_loss')
    last = mask.shape[1] - 1 - jnp.argmax(mask[:, ::-1], axis=1)
    scores = jnp.take_along_axis(
        masking.fill(values, mask), last[:, None], axis=1)[:, 0]
    found = pairing.find_pairs(advantages, weights, rollout)
    chosen, rejected = found.split(scores)
    margin = 0.
    if margin_coef:
      rewards = read_extra(rollout, 'token_rewards', 'pairwise_reward_loss')
      margin = margin_coef * jnp.subtract(
          *found.split(jnp.sum(masking.as_float(rewards), axis=1)))
    losses = margins.bradley_terry_losses(chosen, rejected, margin)
    return pairing.pair_loss(
        {'loss/reward_model': losses}, found, (chosen, rejected))

  needs = {'values'} | ({'token_rewards'} if margin_coef else set())
  return Loss(apply, frozenset(needs))
