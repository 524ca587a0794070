"""The sampler runs on what was learned, or the run stops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.models import partitioning, transformer
from policyopt.models.presets import preset
from policyopt.rollouts.sampler import SamplerConfig, sample
from policyopt.training import sync
from policyopt.training.errors import SyncError
from policyopt.types import Prompts

PLAIN = preset('nano', vocab_size=40, width=32, head_dim=8, mlp_width=48,
               num_layers=2, max_length=32)
MODEL = PLAIN.replace(lora_rank=4)
pytestmark = pytest.mark.usefixtures('quick_compiles')


def make_params(config=MODEL, seed=0):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
      lambda x: x + jnp.asarray(0.2 * rng.normal(size=x.shape), x.dtype),
      transformer.init(config, jax.random.key(0)))


@pytest.fixture(scope='module')
def params():
  return make_params()


@pytest.fixture(scope='module')
def check():
  return sync.make_sync(MODEL)


def change(params, name, fn):
  layers = params['layers']
  return {**params, 'layers': {**layers, name: fn(layers[name])}}


# --- the checksum ----------------------------------------------------------


@pytest.mark.parametrize('dtype', [
    'float32', 'bfloat16', 'float16', 'int32', 'uint8', 'bool'])
def test_every_bit_counts(dtype):
  x = jnp.asarray(np.random.default_rng(0).integers(0, 2, (3, 4)), dtype)
  checksum = jax.jit(sync.checksum)
  expected = checksum({'x': x})
  assert checksum({'x': x + 0}) == expected
  for place in np.ndindex(3, 4):
    other = x.at[place].set((x[place] == 0).astype(dtype))
    assert checksum({'x': other}) != expected


def test_the_smallest_change_and_the_sign_of_zero_count():
  x = jnp.array([1., 0.])
  for other in (jnp.array([np.nextafter(np.float32(1), 2), 0.]),
                jnp.array([1., -0.])):
    assert sync.checksum(x) != sync.checksum(other)


def test_order_counts():
  x = jnp.arange(6.).reshape(2, 3)
  for other in (x[::-1], x[:, ::-1], x[:, jnp.array([1, 0, 2])]):
    assert sync.checksum(x) != sync.checksum(other)
  assert sync.checksum({'a': x[0], 'b': x[1]}) != sync.checksum(
      {'a': x[1], 'b': x[0]})


def test_the_checksum_is_the_documented_sum(rng):
  x, y = rng.normal(size=(2, 3)).astype('f'), rng.normal(size=5).astype('f')

  def bits(z):
    return sum((2 * i + 1) * int(b) for i, b in enumerate(
        z.reshape(-1).view(np.uint32)))

  assert int(sync.checksum([x, y])) == (31 * bits(x) + bits(y)) % 2**32


def test_float64_counts_both_halves(x64):
  x = jnp.ones(3)
  assert x.dtype == jnp.float64
  for other in (x + 1e-15, x + 1.):
    assert sync.checksum(x) != sync.checksum(other)


@pytest.mark.slow
def test_the_checksum_is_the_same_on_every_mesh(params):
  expected = jax.jit(sync.checksum)(params)
  for shape in ((1, 8, 1, 1), (1, 4, 2, 1)):
    placed = jax.device_put(params, partitioning.param_shardings(
        MODEL, partitioning.make_mesh(shape)))
    assert jax.jit(sync.checksum)(placed) == expected


# --- the probe -------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize('config', [
    MODEL, PLAIN, PLAIN.replace(window=3), PLAIN.replace(num_experts=4,
    experts_per_token=2, expert_width=16)], ids=[
        'adapter', 'plain', 'window', 'experts'])
def test_sampling_and_scoring_agree(config):
  params = make_params(config)
  found = sync.make_sync(config).probe(params)
  assert found.shape == (7,) and (np.asarray(found) < 0).all()
  np.testing.assert_allclose(found, sync.scored(config, params), atol=1e-5)


def test_the_probe_is_what_the_sampler_says(params, monkeypatch):
  """A row that the sampler has drawn, as the probe."""
  draw = jax.jit(sample, static_argnums=(0, 1), static_argnames='samples')
  drawn = draw(
      MODEL, SamplerConfig(max_tokens=4), params,
      Prompts(sync._tokens(MODEL)[:, :4], jnp.array([4])), jax.random.key(0),
      samples=1, row_ids=jnp.arange(1))
  monkeypatch.setattr(sync, '_tokens', lambda config: drawn.tokens)
  found = jax.jit(sync.decoded, static_argnums=0)(MODEL, params)
  np.testing.assert_allclose(found[3:], drawn.log_probs[0, 4:], atol=1e-5)


def test_in_sync(params, check):
  before = check.probe(params)
  moved = change(params, 'query_lora_b', lambda x: x + .1)
  metrics, now = check.compare(moved, jax.tree.map(jnp.copy, moved), before)
  assert metrics['sync/checksum'] == (1, 1)
  assert 0 <= metrics['sync/probe_gap'][0] < 1e-5
  # The sampler reads the adapter: what it says has changed with it.
  assert metrics['sync/probe_moved'][0] > 1e-3
  np.testing.assert_allclose(
      metrics['sync/probe_moved'][0], np.abs(now - before).max(), rtol=1e-6)
  check.verify(0, metrics)
  metrics, _ = check.compare(moved, moved, now)
  # The same program and the same parameters: the same bits.
  assert metrics['sync/probe_moved'][0] == 0
  check.verify(1, metrics)


def test_each_part_of_the_adapter_moves_the_probe(params, check):
  before = check.probe(params)
  for name in MODEL.lora_targets:
    other = change(params, f'{name}_lora_a', lambda x: 2 * x)
    assert np.abs(check.probe(other) - before).max() > 1e-4, name


@pytest.mark.parametrize('name', ['query_lora_a', 'down_lora_b'])
def test_a_late_copy_stops_the_run(params, check, name):
  stale = change(params, name, lambda x: x.at[0, 0, 0].multiply(1.0001))
  metrics, _ = check.compare(params, stale, check.probe(params))
  assert metrics['sync/checksum'][0] == 0
  with pytest.raises(SyncError, match='after the update of step 7 the sampler '
                     'is not in sync: the checksum'):
    check.verify(7, metrics)


def test_frozen_weights_are_no_part_of_the_checksum(params, check):
  """Half of a model is not read again after every update of an adapter."""
  other = {**params, 'final_norm': params['final_norm'] * (1 + 1e-6)}
  metrics, _ = check.compare(params, other, check.probe(params))
  assert metrics['sync/checksum'][0] == 1
  plain = sync.make_sync(PLAIN)
  mine = make_params(PLAIN)
  other = {**mine, 'final_norm': mine['final_norm'] * (1 + 1e-6)}
  metrics, _ = plain.compare(mine, other, plain.probe(mine))
  assert metrics['sync/checksum'][0] == 0


def test_an_adapter_that_the_sampler_ignores_stops_the_run(
    params, monkeypatch):
  real = sync.decoded
  monkeypatch.setattr(sync, 'decoded', lambda config, params: real(
      config.replace(lora_rank=0), params))
  check = sync.make_sync(MODEL)
  metrics, _ = check.compare(params, params, check.probe(params))
  assert metrics['sync/checksum'][0] == 1
  assert metrics['sync/probe_gap'][0] > .1
  with pytest.raises(SyncError, match='log-probabilities .* nats apart'):
    check.verify(0, metrics)
  sync.make_sync(MODEL, tolerance=1e3).verify(0, metrics)


@pytest.mark.parametrize('fn, message', [
    (lambda x: x.astype(jnp.bfloat16), r"'layers/up_lora_a' is bfloat16\[2, 32,"
     r' 4\] there and float32\[2, 32, 4\] in the learner'),
    (lambda x: x[:, :, :2], r'is float32\[2, 32, 2\] there')])
def test_another_dtype_or_layout_is_refused(params, check, fn, message):
  with pytest.raises(SyncError, match=message):
    check.compare(params, change(params, 'up_lora_a', fn), jnp.zeros(7))


def test_a_missing_parameter_is_refused(params, check):
  layers = {**params['layers']}
  del layers['key_lora_b']
  with pytest.raises(SyncError, match="'layers/key_lora_b' is missing there"):
    check.compare(params, {**params, 'layers': layers}, jnp.zeros(7))


def test_what_is_not_finite_is_not_in_sync(params, check):
  metrics, now = check.compare(params, params, jnp.zeros(7))
  metrics = {**metrics, 'sync/probe_gap': (np.float32('nan'), 1)}
  with pytest.raises(SyncError, match='nan nats apart'):
    check.verify(0, metrics)


def test_metrics_of_a_step_that_was_not_compared_say_nothing(check):
  check.verify(0, {'loss': (1., 1.)})


@pytest.mark.parametrize('changes, expected', [
    ({}, .1), (dict(dtype='bfloat16'), .5),
    (dict(num_experts=4, experts_per_token=1, expert_width=8), 2.),
    (dict(num_experts=4, experts_per_token=1, expert_width=8,
          expert_dispatch='capacity'), np.inf)])
def test_what_counts_as_rounding(changes, expected):
  check = sync.make_sync(PLAIN.replace(**changes))
  metrics = {'sync/checksum': (1., 1.), 'sync/probe_gap': (expected, 1.)}
  check.verify(0, metrics)
  if np.isfinite(expected):
    metrics['sync/probe_gap'] = (expected * 1.01, 1.)
    with pytest.raises(SyncError):
      check.verify(0, metrics)


def test_the_check_is_compiled_once(params, check):
  from policyopt.training.compiles import count_compiles
  probe = check.probe(params)
  check.compare(params, params, probe)
  with count_compiles() as compiles:
    for _ in range(3):
      metrics, probe = check.compare(params, params, probe)
  assert compiles.count == 0
