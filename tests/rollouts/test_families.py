"""Windows, soft caps and experts: the sampler agrees with the scorer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.models import partitioning, scoring, transformer
from policyopt.rollouts.sampler import SamplerConfig, sample
from tests.rollouts.conftest import CONFIG

quickly = functools.partial(
    jax.jit, compiler_options={'xla_backend_optimization_level': 0})
draw = quickly(sample, static_argnums=(0, 1), static_argnames='samples')
score = quickly(scoring.score, static_argnums=0)

SAMPLER = SamplerConfig(max_tokens=7, temperature=0.8, top_p=0.9)
_GEMMA = CONFIG.replace(
    activation='gelu_tanh', norm_offset=True, post_norms=True,
    scale_embeddings=True, attention_scale=0.3, window=4)
_EXPERTS = CONFIG.replace(
    qk_norm=True, num_experts=8, experts_per_token=3, expert_width=16)
FAMILIES = {
    'gemma2': _GEMMA.replace(
        attention_softcap=2.0, logit_softcap=6.0,
        windowed_layers=(True, False)),
    'gemma3': _GEMMA.replace(
        qk_norm=True, windowed_layers=(True, True, False), num_layers=3,
        rope_theta=1e4, rope_scaling=(8.0,), local_rope_theta=100.0),
    'experts': _EXPERTS,
    # Rows have room for all their tokens, as a lone token has.
    'capacity': _EXPERTS.replace(
        expert_dispatch='capacity', expert_capacity=8 / 3),
}


@functools.cache
def _params(name):
  params = jax.jit(transformer.init, static_argnums=0)(
      FAMILIES[name], jax.random.key(7))
  noise = iter(jax.random.split(jax.random.key(8), 99))
  # No norm is trivial, and the logits spread by 2.
  params['layers'] = {
      n: x + 0.1 * jax.random.normal(next(noise), x.shape)
      for n, x in params['layers'].items()}
  return params | {'head': params['head'] * 20}


def _draw(name, params, prompts):
  return draw(FAMILIES[name], SAMPLER, params, prompts, jax.random.key(0),
              samples=4, row_ids=jnp.arange(16))


@pytest.mark.parametrize('name', [
    name if name == 'gemma3' else pytest.param(name, marks=pytest.mark.slow)
    for name in sorted(FAMILIES)])
def test_log_probs_equal_the_scorer(name, prompts):
  params = _params(name)
  out = _draw(name, params, prompts)
  drawn = score(FAMILIES[name], params, out.tokens, kept=out.kept,
                temperature=SAMPLER.temperature)
  policy = score(FAMILIES[name], params, out.tokens)
  for ours, theirs in ((out.log_probs, drawn.log_probs),
                       (out.policy_log_probs, policy.log_probs)):
    np.testing.assert_allclose(
        ours, np.where(out.mask, theirs, 0), atol=1e-5, rtol=1e-5)
  assert np.abs(out.policy_log_probs).max() > 1


@pytest.mark.slow
@pytest.mark.parametrize('name, shape', [
    ('experts', (1, 2, 2, 2)), ('experts', (2, 1, 1, 4)),
    ('gemma3', (2, 2, 1, 1))])
def test_a_mesh_draws_the_same_tokens(name, shape, prompts):
  single = _draw(name, _params(name), prompts)
  mesh = partitioning.make_mesh(shape, jax.devices()[:np.prod(shape)])
  params = jax.device_put(
      _params(name), partitioning.param_shardings(FAMILIES[name], mesh))
  with jax.set_mesh(mesh):
    out = _draw(
        name, params, jax.device_put(prompts, partitioning.rows(mesh)))
  np.testing.assert_array_equal(out.tokens, single.tokens)
  np.testing.assert_allclose(out.log_probs, single.log_probs, atol=1e-5)
