"""A very small policy and random rollouts of it, for the tests of training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from policyopt import methods
from policyopt.models import lora, partitioning, scoring, transformer
from policyopt.models.presets import preset
from policyopt.ops import bits
from policyopt.training import state as states
from policyopt.training.credit import init_credit
from policyopt.training.learner import Batching, make_learner
from policyopt.types import Rollout, TrainState

VOCAB, TOKENS, TEMPERATURE = 40, 12, 0.8
# A step in the direction of the gradient itself, which momentum remembers:
# what an optimizer that divides by the gradient would hide is compared.
SGD = optax.sgd(0.5, momentum=0.9)

# Every method, each with the parts on that make it need the most.
METHODS = {
    'reinforce': dict(baseline='batch'),
    'rloo': dict(),
    'grpo': dict(beta=0.1),
    'dr_grpo': dict(max_tokens=8),
    'dapo': dict(max_length=6, buffer=3),
    'gspo': dict(clip_low=0.1, clip_high=0.1),
    'ppo': dict(entropy_coef=0.01, value_clip=0.2, old='old_log_probs'),
}


@functools.cache
def method(name):
  """A method of `METHODS`, always the same object."""
  return methods.build(name, METHODS[name])


# 40 tokens, 32 features; logits exist for 8 of the 12 tokens at a time.
MODEL = preset(
    'nano', vocab_size=VOCAB, width=32, num_layers=1, head_dim=8, mlp_width=32,
    max_length=32, logit_chunk=8, value_head=True)


def mesh(*shape):
  """A mesh of that shape; of one device without a shape."""
  shape = shape or (1, 1, 1, 1)
  return partitioning.make_mesh(shape, jax.devices()[:np.prod(shape)])


def rollout(seed=0, groups=4, samples=4):
  """Rows of `groups` prompts side by side, as a sampler could have drawn them.

  Prompts and responses of several lengths, an observation inside of some, and
  the tokens that truncation kept at each chosen one.
  """
  rng = np.random.default_rng(seed)
  rows = groups * samples
  mask = np.zeros((rows, TOKENS), bool)
  for row in range(rows):
    start = 2 + row // samples % 3
    mask[row, start:rng.integers(start + 3, TOKENS)] = True
    mask[row, start + 1] = row % 3 > 0
  tokens = np.where(np.arange(TOKENS)[None, :] <= _last(mask)[:, None],
                    rng.integers(1, VOCAB, mask.shape), 0).astype(np.int32)
  kept = rng.random((*mask.shape, VOCAB)) < 0.5
  kept |= tokens[:, :, None] == np.arange(VOCAB)
  kept &= mask[:, :, None]
  bits_kept = np.asarray(bits.pack_kept(jnp.asarray(kept)))
  # The policy has moved a little since it sampled.
  log_probs = np.asarray(_score(parameters(0), tokens, bits_kept).log_probs)
  log_probs = log_probs + rng.normal(0, 0.2, mask.shape)
  reward = np.zeros(mask.shape)
  reward[np.arange(rows), _last(mask)] = rng.integers(0, 2, rows)
  # In no group did all rows earn the same.
  first = np.arange(0, rows, samples)
  reward[first, _last(mask)[first]] = 1
  reward[first + 1, _last(mask)[first + 1]] = 0
  style = rng.normal(0, 0.1, mask.shape) * mask
  return jax.tree.map(jnp.asarray, Rollout(
      tokens=tokens, mask=mask,
      log_probs=np.where(mask, log_probs, 0).astype(np.float32),
      group=np.repeat(np.arange(groups), samples).astype(np.int32),
      rewards={'accuracy': reward.astype(np.float32),
               'style': style.astype(np.float32)},
      extras={'kept': bits_kept,
              'truncated': rng.random(rows) < 0.2,
              'length': mask.sum(1).astype(np.int32)}))


@jax.jit
def _score(params, tokens, kept):
  return scoring.score(MODEL, params, tokens, temperature=TEMPERATURE,
                       kept=kept)


def _last(mask):
  """Index of the last chosen token of each row."""
  return mask.shape[1] - 1 - np.argmax(mask[:, ::-1], axis=1)


def take(tree, rows):
  """Some rows of every array."""
  return jax.tree.map(lambda x: x[rows], tree)


def pad_rows(x, count):
  """The rollout with `count` loud rows that take no part."""
  def pad(leaf):
    return jnp.concatenate([leaf, jnp.ones((count, *leaf.shape[1:]),
                                           leaf.dtype)])
  padded = jax.tree.map(pad, x)
  rows = x.group.shape[0]
  return padded._replace(mask=padded.mask.at[rows:].set(False),
                         group=padded.group.at[rows:].set(-1))


def pad_columns(x, count):
  """The rollout with `count` more columns of padding."""
  def pad(leaf):
    if leaf.ndim == 1:
      return leaf
    return jnp.pad(leaf, [(0, 0), (0, count)] + [(0, 0)] * (leaf.ndim - 2))
  return jax.tree.map(pad, x)


@functools.cache
def trainer(name, epochs=1, minibatches=1, microbatches=1):
  """A Trainer on one device, compiled once for all the tests of a module."""
  return Trainer(name, batching=Batching(epochs, minibatches, microbatches))


class Trainer:
  """A learner with what it needs: `step` is score, credit and update."""

  def __init__(self, name, where=None, optimizer=SGD, batching=Batching(),
               change=None, schedule=None, model=MODEL, sizes=None):
    self.model, self.method = model, method(name)
    if change:
      self.method = change(self.method)
    self.mesh = where or mesh()
    self.optimizer = optimizer
    self.shardings = states.state_shardings(
        model, self.method, optimizer, self.mesh)
    # A model with an adapter is its own reference.
    self.reference = None if model.lora_rank else jax.device_put(
        parameters(1, model), self.shardings.params)
    self.learner = make_learner(
        model, self.method, optimizer, self.mesh, batching=batching,
        temperature=TEMPERATURE, schedule=schedule,
        state_shardings=self.shardings, sizes=sizes)

  def state(self):
    """A fresh state; always the same."""
    params = parameters(0, self.model)
    return jax.device_put(TrainState(
        step=np.int32(0), params=params,
        opt_state=self.optimizer.init(lora.split(params)[0]),
        credit_state=init_credit(self.method),
        plan_state=self.method.plan.init(None), key=jax.random.key(2),
        skipped=np.int32(0)), self.shardings)

  def credit(self, state, batch):
    """(Credit, state, metrics) of a rollout."""
    with jax.set_mesh(self.mesh):
      batch = jax.device_put(batch, partitioning.rows(self.mesh))
      scored = self.learner.score(state.params, self.reference, batch)
      credit, credit_state, metrics = self.learner.credit(
          state.credit_state, scored)
    return credit, state._replace(credit_state=credit_state), metrics

  def update(self, state, credit, seed=3):
    """(state, metrics) after the updates of a batch."""
    with jax.set_mesh(self.mesh):
      return self.learner.update(state, credit, jax.random.key(seed))

  def step(self, state, batch, seed=3):
    """(state, metrics) after a whole step."""
    credit, state, metrics = self.credit(state, batch)
    state, more = self.update(state, credit, seed)
    return state, {**metrics, **more}


@functools.cache
def parameters(seed, model=MODEL):
  """Random parameters of a policy that has opinions, as numpy arrays."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
      lambda x: np.asarray(x) + rng.normal(0, 0.1, x.shape).astype(x.dtype),
      _initial(model))


@functools.cache
def _initial(model):
  return jax.jit(transformer.init, static_argnums=0)(model, jax.random.key(0))


def close(actual, expected, rtol=0., atol=1e-6, drop=()):
  """Asserts that two trees of arrays or dicts of metrics agree."""
  if drop:
    actual, expected = ({k: v for k, v in x.items() if k not in drop}
                        for x in (actual, expected))
  actual, expected = jax.device_get((actual, expected))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=rtol, atol=atol), actual, expected)


def learned(state):
  """Of a state, what an update by gradients changes."""
  return state.params, state.opt_state
