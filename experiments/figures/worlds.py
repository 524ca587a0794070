"""Worlds that several figures are measured on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from experiments.figures import beds
from policyopt.envs import exact

Array = jax.Array


def bandits(key: Array, p, actions: int, right: int) -> beds.World:
  """Bandits, each with success rate p; the first `right` actions are right.

  Args:
    key: of the shares of actions among the right and among the wrong ones.
    p: f32[Q], success rates of the reference policies.
    actions: V.
    right: how many of them earn 1; the others earn 0.

  Returns:
    A World of Q prompts.
  """
  logits = jax.random.normal(key, (len(p), actions))
  among = jnp.arange(actions) < right
  inside = lambda where: jax.nn.log_softmax(
      jnp.where(where, logits, -jnp.inf), axis=1)
  logits = jnp.where(among, inside(among) + jnp.log(p)[:, None],
                     inside(~among) + jnp.log1p(-p)[:, None])
  return beds.World(
      exact.make_bed(actions, 1),
      jnp.tile(among.astype(jnp.float32), (len(p), 1)), logits[:, None])


def random_trees(key: Array, prompts: int, tokens: int) -> beds.World:
  """Nearly even policies over V = 2, of whose sequences a tenth earns 1.

  Args:
    key: of the policies and of what is right.
    prompts: Q.
    tokens: T.

  Returns:
    A World.
  """
  bed = exact.make_bed(2, tokens)
  place, pick = jax.random.split(key)
  size = len(bed.sequences)
  right = jax.vmap(lambda key: jax.random.permutation(key, size) < size // 10)(
      jax.random.split(pick, prompts))
  logits = 0.5 * jax.random.normal(place, (prompts, bed.prefixes, 2))
  return beds.World(bed, right.astype(jnp.float32), logits)


def one_right(shape: Array, wanted: Array, prompts: int, branches: int,
              tokens: int, least: float, most: float):
  """Random policies of which one sequence is right, by its chance.

  Args:
    shape: key of the policies.
    wanted: key of the chances.
    prompts: Q.
    branches: V.
    tokens: T.
    least: the smallest chance that is wished for.
    most: the largest; between them it is log-uniform.

  Returns:
    (World, i32[Q], the sequence whose chance is nearest to the wish).
  """
  bed = exact.make_bed(branches, tokens)
  logits = 1.5 * jax.random.normal(shape, (prompts, bed.prefixes, branches))
  wish = jax.random.uniform(
      wanted, (prompts, 1), minval=np.log(least), maxval=np.log(most))
  log_p = jax.vmap(exact.log_probs, (None, 0))(bed, logits).sum(-1)
  right = jnp.argmin(jnp.abs(log_p - wish), axis=1)
  return beds.World(bed, jax.nn.one_hot(right, log_p.shape[1]), logits), right
