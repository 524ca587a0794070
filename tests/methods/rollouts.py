"""Small random rollouts, and the way of a rollout through a method."""

import jax
import jax.numpy as jnp
import numpy as np

from policyopt import types
from policyopt.training.credit import (
    assign_credit,
    credit_metrics,
    init_credit,
    method_needs,
)

ROWS, TOKENS, VOCAB, WIDTH = 16, 14, 11, 6
# Five groups of unequal size in a mixed order, one of them a single row, and
# two rows that take no part.
GROUP = np.array([3, 0, 0, 7, 3, 0, 7, 3, -1, 7, 0, 3, 5, 2, 2, -1])


def _mask(rng, group):
  mask = np.zeros((len(group), TOKENS), bool)
  for row in range(len(group)):
    if group[row] >= 0:
      start = rng.integers(1, 4)
      end = rng.integers(start + 3, TOKENS)
      mask[row, start:end] = True
      mask[row, start + 1] = rng.random() < 0.5  # an observation inside
  return mask


def outcome(mask, rewards):
  """Rewards f[B] on the last chosen token of each row."""
  last = np.zeros(mask.shape, np.float32)
  for row in range(len(mask)):
    chosen = np.flatnonzero(mask[row])
    if len(chosen):
      last[row, chosen[-1]] = rewards[row]
  return jnp.asarray(last)


def _top_probs(rng, shape):
  probs = np.exp(rng.normal(size=(*shape, VOCAB)))
  probs /= probs.sum(-1, keepdims=True)
  order = np.argsort(-probs, -1, kind='stable')
  return np.take_along_axis(probs, order, -1), order


def make(seed=0, group=GROUP, mask=None, rewards=None):
  """A rollout and a policy's view of it that has moved a little.

  Args:
    seed: of everything random.
    group: i[B].
    mask: bool[B, T]; random, with holes, when None.
    rewards: f[B] outcome rewards; random when None.

  Returns:
    (Rollout with every extra that a method may need, PolicyOutput).
  """
  rng = np.random.default_rng(seed)
  group = np.asarray(group)
  mask = _mask(rng, group) if mask is None else np.asarray(mask)
  shape = mask.shape
  if rewards is None:
    rewards = rng.normal(size=len(group)).astype(np.float32)

  def noise(scale):
    return np.where(
        mask, scale * rng.normal(size=shape), 0).astype(np.float32)

  log_probs = -1 - np.abs(noise(1.)) * mask
  top_probs, top_ids = _top_probs(rng, shape)
  before = np.cumsum(mask, 1) == 0
  before[:, 0] = False  # Nothing predicts the first token.
  rollout = types.Rollout(
      tokens=rng.integers(0, VOCAB, shape),
      mask=mask,
      log_probs=np.where(mask, log_probs, 0),
      group=group.astype(np.int32),
      rewards={'accuracy': outcome(mask, rewards)},
      extras={
          'ref_log_probs': np.where(mask, log_probs + noise(.3), 0),
          'old_log_probs': np.where(mask, log_probs + noise(.01), 0),
          'values': noise(1.),
          'entropy': np.abs(noise(1.)),
          'policy_log_probs': log_probs,
          'truncated': rng.random(len(group)) < .2,
          'answer_id': rng.integers(-1, 3, len(group)),
          'greedy_reward': rng.normal(size=len(group)),
          'prompt_log_probs': np.where(
              before, -rng.exponential(size=shape), 0),
          'hidden_states': mask[:, :, None] * rng.normal(size=(*shape, WIDTH)),
          'top_probs': mask[:, :, None] * top_probs,
          'top_ids': mask[:, :, None] * top_ids,
          'sum_squared_probs': mask * np.square(top_probs).sum(-1),
          'progress': np.full(len(group), .25),
          'learning_rate': np.full(len(group), .01),
      })
  policy = types.PolicyOutput(
      log_probs=rollout.log_probs + noise(.2),
      entropy=np.abs(noise(1.)),
      values=rollout.extras['values'] + noise(.2))
  return jax.device_put(jax.tree.map(_as_on_device, (rollout, policy)))


def _as_on_device(x):
  kinds = {'f': np.float32, 'i': np.int32, 'b': np.bool_}
  return np.asarray(x, kinds[x.dtype.kind])


def insertions(mask, seed=0):
  """Where each token goes when observations are put between the chosen ones.

  Args:
    mask: bool[B, T]; what a row has left of padding is used up.
    seed: of the places, none of which is in the prompt.

  Returns:
    i64[B, T], a permutation of the places of each row.
  """
  rng = np.random.default_rng(seed)
  moves = np.tile(np.arange(mask.shape[1]), (len(mask), 1))
  for row in np.flatnonzero(np.asarray(mask).any(1)):
    chosen = np.flatnonzero(mask[row])
    first, last = chosen[0], chosen[-1]
    points = rng.integers(first + 1, last + 1, mask.shape[1] - 1 - last)
    old = np.arange(last + 1)
    new = old + np.sum(points[:, None] <= old[None], axis=0)
    moves[row] = np.concatenate(
        [new, np.setdiff1d(np.arange(mask.shape[1]), new)])
  return moves


def insert(tree, moves):
  """Every [B, T, ...] array with its tokens moved."""
  def move(x):
    if np.ndim(x) < 2:
      return x
    out = np.zeros_like(x)
    out[np.arange(len(moves))[:, None], moves] = x
    return jnp.asarray(out)

  return jax.tree.map(move, tree)


needs = method_needs
initial_state = init_credit


def keep_extras(rollout, names):
  """The rollout with only those extras."""
  return rollout._replace(extras={
      name: x for name, x in rollout.extras.items() if name in names})


def assign(method, state, rollout):
  """(rollout with what credit adds, advantages, weights, state)."""
  credit, state = assign_credit(method, state, rollout)
  rollout, advantages, weights = credit
  return rollout, *jax.lax.stop_gradient((advantages, weights)), state


def loss_and_gradient(method, policy, advantages, weights, rollout):
  """((loss, metrics), gradient by the policy's log-probs and values)."""
  def loss(leaves):
    output = policy._replace(log_probs=leaves[0], values=leaves[1])
    return method.loss.apply(output, advantages, weights, rollout)

  return jax.value_and_grad(loss, has_aux=True)(
      (policy.log_probs, policy.values))


def run(method, rollout, policy, state=None):
  """Everything that one batch makes of a method, as a dict of arrays."""
  return run_and_fill(method, rollout, policy, state)[0]


def run_and_fill(method, rollout, policy, state=None):
  """(what `run` returns, the rollout with what credit adds)."""
  state = initial_state(method) if state is None else state
  reported = credit_metrics(method, state, rollout)
  rollout, advantages, weights, state = assign(method, state, rollout)
  (loss, metrics), gradient = loss_and_gradient(
      method, policy, advantages, weights, rollout)
  return {
      'advantages': advantages, 'weights': weights, 'loss': loss,
      'metrics': metrics, 'reported': reported, 'gradient': gradient,
      'state': state}, rollout
