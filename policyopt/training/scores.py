"""What a method asks of the models before credit is assigned."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from jax import lax
import jax.numpy as jnp

from policyopt.models import lora, packed, shared
from policyopt.models.config import ModelConfig
from policyopt.training.updates import microbatch
from policyopt.types import Rollout

# Scored before credit is assigned, by a forward pass of the policy; the
# entropy already comes with the samples.
_SCORED = {
    'old_log_probs': 'log_probs', 'prompt_log_probs': 'log_probs',
    'values': 'values', 'hidden_states': 'hidden', 'top_probs': 'top_probs',
    'top_ids': 'top_ids', 'sum_squared_probs': 'sum_squared_probs'}


def needs_scores(needs: Collection[str]) -> bool:
  """Whether any of the needs takes a forward pass."""
  return scores_policy(needs) or 'ref_log_probs' in needs


def scores_policy(needs: Collection[str]) -> bool:
  """Whether any of the needs takes a forward pass of the policy."""
  return not set(needs).isdisjoint(_SCORED)


def keeps_reference(config: ModelConfig, needs: Collection[str]) -> bool:
  """Whether a run must hold a second model, the one that it began with.

  A model with an adapter is its own reference: the adapter is taken off.
  """
  return 'ref_log_probs' in needs and not config.lora_rank


def add_scores(config: ModelConfig, params: Any, ref_params: Any,
               rollout: Rollout, needs: Collection[str], temperature: float,
               pieces: int,
               packing: packed.Packing | shared.Shared | None = None
               ) -> Rollout:
  """The rollout with what forward passes say of its tokens.

  Args:
    config: of the model.
    params: of the policy.
    ref_params: of the reference model; None takes the policy's without its
      adapter.
    rollout: B rows.
    needs: names of `types.NEEDS`; others than those that are scored are left
      to others.
    temperature: that the rollout was sampled at.
    pieces: cut into so many, one after the other; divides B.
    packing: where the rows of each piece share rows of the model, or prompts;
      None: they do not.

  Returns:
    The rollout with the scores in its extras, 0 outside of the mask (the
    prompt's, for 'prompt_log_probs').

  Raises:
    ValueError: reference log-probabilities are needed, but there are neither
      reference parameters nor an adapter.
  """
  wanted = set(needs) & set(_SCORED)
  reference = 'ref_log_probs' in needs
  if reference:
    ref_config, ref_params = _reference(config, params, ref_params)

  def one(inputs):
    piece, packing = inputs
    kept = piece.extras.get('kept')
    extras = {}
    if wanted:
      out = packed.score(
          config, params, piece.tokens, packing, temperature=temperature,
          kept=kept, prompts='prompt_log_probs' in wanted, needs=frozenset(
              _SCORED[name] for name in wanted) - {'log_probs'})
      extras = {name: getattr(out, _SCORED[name]) for name in wanted}
    if reference:
      extras['ref_log_probs'] = packed.score(
          ref_config, ref_params, piece.tokens, packing,
          temperature=temperature, kept=kept).log_probs
    return extras

  extras = lax.map(one, microbatch((rollout, packing), pieces))

  def whole(name, x):
    mask = _prompt(rollout.mask) if name == 'prompt_log_probs' else rollout.mask
    x = x.reshape(*mask.shape, *x.shape[3:])
    return jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - 2)), x, 0)

  return rollout._replace(extras={
      **rollout.extras, **{name: whole(name, x) for name, x in extras.items()}})


def _reference(config, params, ref_params):
  if ref_params is not None:
    return config, ref_params
  if not config.lora_rank:
    raise ValueError(
        'ref_params is None; a policy without an adapter (lora_rank = 0) needs '
        'the parameters of its reference model')
  return lora.base(config, params)


def _prompt(mask):
  """The tokens before the first chosen one, in rows that have any."""
  return (jnp.cumsum(mask, axis=1) == 0) & mask.any(axis=1, keepdims=True)
