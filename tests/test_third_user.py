"""Someone who needs advantages in their own JAX code, and nothing else of us.

Their program imports jax and the kernels, and runs two methods in each of the
ways in which JAX spreads a batch: BNPO, whose weights need the whole batch, and
the two groupings of GiGPO, by prompt and by the state a step was taken in.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats

ROOT = pathlib.Path(__file__).parents[1]
SHARDS, ROWS, STEPS = 8, 4, 3
PROGRAM = """
import functools, json, sys, jax, jax.numpy as jnp
from policyopt import ops

def advantages(rewards, group, returns, state, axis_name=None):
  # Ids count from 0 within what a device sees.
  group, step = ops.compact_ids(group), ops.compact_ids(state.reshape(-1))
  bnpo, _ = ops.beta_normalize(rewards, group, axis_name=axis_name)
  same_state = ops.group_standardize(returns.reshape(-1), step)
  gigpo = ops.group_standardize(rewards, group)[:, None]
  return bnpo, gigpo + same_state.reshape(state.shape)

whole = tuple(jnp.array(x) for x in json.load(sys.stdin))
parts = tuple(x.reshape(8, -1, *x.shape[1:]) for x in whole)
mesh = jax.make_mesh((8,), ('d',), axis_types=(jax.sharding.AxisType.Auto,))
rows = jax.sharding.PartitionSpec('d')
spread = jax.device_put(whole, jax.sharding.NamedSharding(mesh, rows))
local = functools.partial(advantages, axis_name='d')
found = {
    'jit': jax.jit(advantages)(*whole),
    'vmap': jax.vmap(local, axis_name='d')(*parts),
    'pmap': jax.pmap(local, axis_name='d')(*parts),
    'shard_map': jax.jit(jax.shard_map(
        local, mesh=mesh, in_specs=rows, out_specs=rows))(*whole),
    'sharded jit': jax.jit(advantages)(*spread)}
assert len(found['sharded jit'][0].sharding.device_set) == 8
print(json.dumps({way: [x.reshape(-1).tolist() for x in out]
                  for way, out in found.items()}))
print(json.dumps([name for name in sys.modules if '.' not in name]))
"""


def _batch():
  """Rewards [B], prompts [B], step returns [B, K] and states [B, K]."""
  rng = np.random.default_rng(0)
  # Prompt names as large as they like; two prompts to a device.
  group = np.repeat(100 + 7 * np.arange(2 * SHARDS), ROWS // 2)
  rewards = rng.integers(0, 2, len(group)).astype(float)
  returns = rng.normal(size=(len(group), STEPS))
  # A state belongs to its prompt.
  state = 10 * group[:, None] + rng.integers(0, 3, returns.shape)
  return rewards, group, returns, state


def _standardize(x, ids):
  out = np.zeros(len(x))
  for name in set(ids.tolist()):
    rows = np.flatnonzero(ids == name)
    if len(rows) > 1:
      centred = x[rows] - x[rows].mean()
      out[rows] = centred / (x[rows].std(ddof=1) + 1e-6)
  return out


def _bnpo(rewards, group):
  names = sorted(set(group.tolist()))
  p = np.array([rewards[group == name].mean() for name in names])
  c = p.mean() * (1 - p.mean()) / p.var(ddof=1) - 1
  beta = scipy.stats.beta(max(1, 1 + c * p.mean() / 3),
                          max(1, 1 + c * (1 - p.mean()) / 3))
  rate = p[np.searchsorted(names, group)]
  with np.errstate(divide='ignore'):
    weight = np.minimum(1 / beta.pdf(rate), 1e6)
  return weight * (rewards - rate)


# Five ways of compiling, in a process of its own.
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def printed(tmp_path_factory):
  """(way -> [BNPO, GiGPO], the top-level modules that were loaded)."""
  cores = dict(JAX_PLATFORMS='cpu', JAX_NUM_CPU_DEVICES='8',
               JAX_NUMPY_RANK_PROMOTION='raise', PYTHONPATH=str(ROOT))
  done = subprocess.run(
      [sys.executable, '-W', 'error', '-c', PROGRAM], text=True,
      input=json.dumps([x.tolist() for x in _batch()]), capture_output=True,
      cwd=tmp_path_factory.mktemp('user'), env={**os.environ, **cores})
  assert done.returncode == 0, done.stderr
  return [json.loads(line) for line in done.stdout.splitlines()]


def test_five_ways_are_equal_and_right(printed):
  found, (rewards, group, returns, state) = printed[0], _batch()
  same_state = _standardize(returns.reshape(-1), state.reshape(-1))
  expected = (
      _bnpo(rewards, group),
      np.repeat(_standardize(rewards, group), STEPS) + same_state)
  assert sorted(found) == [
      'jit', 'pmap', 'shard_map', 'sharded jit', 'vmap']
  for way, ours in found.items():
    for mine, wanted in zip(ours, expected):
      assert np.abs(wanted).max() > .1
      np.testing.assert_allclose(
          mine, wanted, rtol=1e-4, atol=1e-5, err_msg=way)
    np.testing.assert_allclose(
        np.concatenate(ours), np.concatenate(found['jit']), rtol=1e-5,
        atol=1e-6, err_msg=way)


def test_it_pays_for_nothing_else(printed):
  assert not set(printed[1]) & {
      'flax', 'optax', 'orbax', 'matplotlib', 'tokenizers', 'reasoning_gym'}
