"""The decoder once more, in numpy and float64, one token at a time."""

import functools

import jax
import numpy as np

from policyopt.models import transformer

# Compiles in half the time, and runs as slowly as it likes.
fast_jit = functools.partial(
    jax.jit, compiler_options={'xla_backend_optimization_level': 0})


def params(config, seed=0):
  """Parameters of which no norm, bias or head is trivial (no compile)."""
  rng = np.random.default_rng(seed)

  def draw(path, x):
    ones = jax.tree_util.keystr(path).endswith("norm']")
    scale = 0.1 if ones or len(x.shape) < 2 else x.shape[-1] ** -0.5
    return np.asarray(ones + scale * rng.standard_normal(x.shape), x.dtype)

  return jax.tree.map(jax.numpy.asarray, jax.tree_util.tree_map_with_path(
      draw, transformer.abstract_params(config)))


def hidden(config, params, tokens):
  """Final hidden states [T, D] of one row of tokens [T]."""
  params = {name: {k: np.float64(v) for k, v in x.items()}
            if isinstance(x, dict) else np.float64(x)
            for name, x in params.items()}
  x = params['embedding'][tokens]
  for layer in range(config.num_layers):
    p = {name: value[layer] for name, value in params['layers'].items()}
    x = x + _attention(config, p, _norm(config, x, p['attention_norm']))
    y = _norm(config, x, p['mlp_norm'])
    gate = y @ p['gate']
    x = x + (gate / (1 + np.exp(-gate)) * (y @ p['up'])) @ p['down']
  return _norm(config, x, params['final_norm'])


def _attention(config, p, x):
  length, dim = len(x), config.head_dim
  names = ('query', 'key', 'value')
  q, k, v = (np.einsum('td,dhk->thk', x, p[name]) for name in names)
  if config.qkv_bias:
    q, k, v = (y + p[f'{name}_bias'] for y, name in zip((q, k, v), names))
  if config.qk_norm:
    q = _norm(config, q, p['query_norm'])
    k = _norm(config, k, p['key_norm'])
  q, k = _rotate(config, q), _rotate(config, k)
  out = np.zeros(q.shape)
  for head in range(config.num_heads):
    kv = head // (config.num_heads // config.num_kv_heads)
    for t in range(length):
      scores = k[:t + 1, kv] @ q[t, head] / np.sqrt(dim)
      probs = np.exp(scores - scores.max())
      out[t, head] = probs @ v[:t + 1, kv] / probs.sum()
  return np.einsum('thk,hkd->td', out, p['out'])


def _rotate(config, x):
  half = config.head_dim // 2
  out = np.zeros(x.shape)
  for t in range(len(x)):
    for i in range(half):
      frequency = config.rope_theta ** (-2 * i / config.head_dim)
      if config.rope_scaling is not None:
        factor, low, high, original = config.rope_scaling
        length = 2 * np.pi / frequency
        if length > original / low:
          frequency /= factor
        elif length > original / high:
          smooth = (original / length - low) / (high - low)
          frequency *= smooth + (1 - smooth) / factor
      turned = (x[t, :, i] + 1j * x[t, :, i + half]) * np.exp(
          1j * t * frequency)
      out[t, :, i], out[t, :, i + half] = turned.real, turned.imag
  return out


def _norm(config, x, scale):
  square = np.mean(x ** 2, axis=-1, keepdims=True)
  return x / np.sqrt(square + config.norm_eps) * scale
