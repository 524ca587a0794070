"""Proof, after every update, that the sampler runs on what was learned.

Two things are compared on the device, and looked at on the host only when the
metrics of the step are there anyway:

- a checksum of the bits of every trained parameter, the sampler's against the
  learner's: exact, and changed by any copy that is late, rounded or shuffled
  (where the sampler's are rounded on purpose, the learner's are for this);
- the log-probabilities of a fixed row of tokens, the sampler's way (a prompt
  is read into the cache, then one token at a time) against the learner's (the
  whole row at once): they agree up to rounding, and they move when the
  parameters do, which shows that the sampler reads the adapter at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from policyopt.models import cache as kv_cache
from policyopt.models import lora, partitioning, scoring, transformer
from policyopt.models.config import ModelConfig
from policyopt.training import compiling
from policyopt.training.errors import SyncError
from policyopt.training.serving import Layout, rounded
from policyopt.types import Array, Metrics

# Tokens of the probe, and how many of them are read as a prompt.
_LENGTH, _PROMPT = 8, 4
# Nats between the two ways that are rounding, by the narrowest dtype that the
# sampler reads; a token that rounding sends to another expert moves by more.
_FINE, _COARSE, _EXPERTS = 0.1, 0.5, 2.0
_EIGHT_BITS = {'int8': 1.0, 'float8_e4m3fn': 2.0}


class Sync(NamedTuple):
  """The check of a run.

  Attributes:
    probe: (params) -> f32[7], log-probabilities of the probe as the sampler
      computes them.
    compare: (learner's params, sampler's params, probe before the update) ->
      (metrics, probe now). Metrics are (sum, weight) pairs: 'sync/checksum'
      (1 when all bits are equal), 'sync/probe_gap' and 'sync/probe_moved' in
      nats. Raises SyncError when the two have not the same parameters, shapes
      or dtypes.
    verify: (step, metrics) -> None; waits for the metrics. Raises SyncError
      when they say that sampler and learner have parted.
  """
  probe: Callable[[Any], Array]
  compare: Callable[[Any, Any, Array], tuple[Metrics, Array]]
  verify: Callable[[int, Metrics], None]


def make_sync(config: ModelConfig, tolerance: float | None = None,
              serving: Layout | None = None, jit: Callable = jax.jit) -> Sync:
  """Builds the check.

  Args:
    config: of the model.
    tolerance: largest |log π(sampler) - log π(learner)| of a token, in nats;
      None: 0.1, or 0.5 when the model computes in 16 bits or is sampled from
      in 16 bits, or 2 with experts (∞ with experts of limited capacity: what
      they drop depends on how much is read at once); at least 1 when weights
      or cache of the sampler are int8, and 2 when they are float8.
    serving: of the sampler's parameters; None: they are the learner's own.
    jit: compiles, as that of `make_learner`.

  Returns:
    Sync.
  """
  if tolerance is None:
    tolerance = _default_tolerance(config, serving)
  if serving and serving.copied:
    probe, checked = _across(config, serving, jit)
  else:
    probe, checked = _alike(config, serving, jit)

  def verify(step, metrics):
    if 'sync/checksum' in metrics:
      _verify(step, metrics, tolerance)

  return Sync(probe, checked, verify)


def _alike(config, serving, jit):
  """`probe` and `compare` where the sampler has the learner's parameters."""
  drawn = serving.model(config) if serving else config

  def compare(learner, sampler, before):
    now = decoded(drawn, sampler)
    equal = checksum(lora.split(learner)[0]) == checksum(
        lora.split(sampler)[0])
    return _metrics(now, scored(config, learner), before, equal), now

  compiled = jit(compare, compiler_options=compiling.options(
      serving and serving.mesh))

  def probe(params):
    # By the same program, so that a resumed run reports the same bits.
    return compiled(params, params, jnp.zeros(_LENGTH - 1))[1]

  def checked(learner, sampler, before):
    _check_same_tree(learner, sampler)
    return compiled(learner, sampler, before)

  return probe, checked


def _across(config, serving, jit):
  """`probe` and `compare` where the sampler has a copy in its own layout.

  One program on each side, and one that brings their numbers together.
  """
  mesh, drawn = serving.mesh, serving.model(config)
  whole = partitioning.replicated(mesh)

  def learners(params):
    expected = rounded(lora.split(params)[0], serving)
    return scored(config, params), checksum(expected)

  def samplers(params):
    return decoded(drawn, params), checksum(lora.split(params)[0])

  def join(learner, sampler, before):
    (score, expected), (now, found) = learner, sampler
    return _metrics(now, score, before, expected == found), now

  learners, samplers, join = (
      jit(fn, out_shardings=whole, compiler_options=compiling.options(mesh))
      for fn in (learners, samplers, join))

  def probed(params):
    with jax.set_mesh(mesh):
      return samplers(params)

  def compare(learner, sampler, before):
    _check_same_tree(jax.eval_shape(
        lambda params: rounded(params, serving), learner), sampler)
    return join(learners(learner), probed(sampler), before)

  return lambda params: probed(params)[0], compare


def _metrics(now, score, before, equal):
  one = jnp.ones(())
  return {
      'sync/checksum': (equal.astype(jnp.float32), one),
      'sync/probe_gap': (jnp.max(jnp.abs(now - score)), one),
      'sync/probe_moved': (jnp.max(jnp.abs(now - before)), one)}


def checksum(tree: Any) -> Array:
  """A number that any change of any bit of the arrays is seen in.

  Σ (2 i + 1) bits[i] over the elements i of an array, and the arrays in order
  folded with 31, all modulo 2^32: exact in any order of summation, so equal on
  every mesh. One changed element always changes it; swapped or shifted ones
  almost always do.

  Args:
    tree: of arrays.

  Returns:
    uint32[].

  Example:
    >>> int(checksum({'a': jnp.arange(3), 'b': jnp.zeros(())}))
    403
  """
  total = jnp.uint32(0)
  for leaf in jax.tree.leaves(tree):
    total = total * jnp.uint32(31) + _bits(leaf)
  return total


def scored(config: ModelConfig, params: Any) -> Array:
  """f32[7]: log-probabilities of the probe as the learner computes them."""
  return scoring.score(config, params, _tokens(config)).log_probs[0, 1:]


def decoded(config: ModelConfig, params: Any) -> Array:
  """f32[7]: log-probabilities of the probe as the sampler computes them."""
  tokens = _tokens(config)
  cache = kv_cache.init_cache(config, 1, _LENGTH)
  place = jnp.arange(_PROMPT, dtype=jnp.int32)[None]
  hidden, cache = transformer.forward(
      config, params, tokens[:, :_PROMPT], place, cache=cache,
      slot=jnp.int32(0))
  first = _log_probs(config, params, hidden[0], tokens[0, 1:_PROMPT + 1])

  def step(cache, slot):
    token = lax.dynamic_slice_in_dim(tokens, slot, 1, axis=1)
    hidden, cache = transformer.forward(
        config, params, token, slot[None, None], cache=cache, slot=slot)
    following = lax.dynamic_slice_in_dim(tokens[0], slot + 1, 1)
    return cache, _log_probs(config, params, hidden[0], following)[0]

  _, rest = lax.scan(
      step, cache, jnp.arange(_PROMPT, _LENGTH - 1, dtype=jnp.int32))
  return jnp.concatenate([first, rest])


def _log_probs(config, params, hidden, tokens):
  """log π of each token, from the hidden state [S, D] that predicts it."""
  logits = transformer.logits(config, params, hidden)
  log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
  return jnp.take_along_axis(log_probs, tokens[:, None], axis=1)[:, 0]


def _tokens(config):
  """i32[1, 8]: ids from all over the vocabulary, always the same."""
  ids = (1 + 7919 * np.arange(_LENGTH)) % config.vocab_size
  return jnp.asarray(ids[None], jnp.int32)


def _bits(x):
  """Σ (2 i + 1) bits[i] modulo 2^32."""
  if x.dtype == bool:
    x = x.astype(jnp.uint8)
  size = x.dtype.itemsize
  if size == 8:
    x = lax.bitcast_convert_type(x, jnp.uint32)  # One more axis, of two.
  else:
    x = lax.bitcast_convert_type(x, jnp.dtype(f'uint{8 * size}'))
  place = jnp.zeros(x.shape, jnp.uint32)
  for axis, length in enumerate(x.shape):
    place = place * jnp.uint32(length) + lax.broadcasted_iota(
        jnp.uint32, x.shape, axis)
  return jnp.sum(x.astype(jnp.uint32) * (2 * place + 1), dtype=jnp.uint32)


def _default_tolerance(config, serving=None):
  """The largest that any dtype or layer of the two ways explains."""
  read = {config.dtype}
  if serving:
    read |= {serving.dtype, serving.weights, serving.cache} - {None}
  reasons = [_EIGHT_BITS.get(dtype, _FINE if jnp.dtype(dtype).itemsize >= 4
                             else _COARSE) for dtype in read]
  if config.num_experts:
    reasons.append(
        np.inf if config.expert_dispatch == 'capacity' else _EXPERTS)
  return max(reasons)


def _check_same_tree(learner, sampler):
  """Parameters, shapes and dtypes must be the same."""
  if learner is sampler:
    return
  mine, theirs = _describe(learner), _describe(sampler)
  for name in sorted(mine.keys() | theirs.keys()):
    if mine.get(name) != theirs.get(name):
      raise SyncError(
          f'the sampler is not in sync: parameter {name!r} is '
          f'{theirs.get(name, "missing")} there and '
          f'{mine.get(name, "missing")} in the learner')


def _describe(params):
  return {
      jax.tree_util.keystr(path, simple=True, separator='/'):
      f'{x.dtype}{list(x.shape)}'
      for path, x in jax.tree_util.tree_leaves_with_path(params)}


def _verify(step, metrics, tolerance):
  equal, gap = (float(metrics[f'sync/{name}'][0])
                for name in ('checksum', 'probe_gap'))
  after = f'after the update of step {step} the sampler is not in sync: '
  if not equal:
    raise SyncError(
        f'{after}the checksum of its parameters is not the one of the learner '
        '(sync/checksum is 0): it samples from another policy than the one '
        'that is trained')
  if not gap <= tolerance:
    raise SyncError(
        f'{after}a fixed row of tokens has log-probabilities {gap:.3g} nats '
        f'apart (sync/probe_gap; at most {tolerance:g} is rounding, see '
        'probe_tolerance): parts of the model are not applied alike by '
        'sampling with a cache and by scoring')
