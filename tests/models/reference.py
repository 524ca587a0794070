"""The decoder once more, in numpy and float64, one token at a time."""

import functools

import jax
import numpy as np

from policyopt.models import presets, transformer

SMALL = presets.preset(
    'nano', vocab_size=29, width=16, head_dim=8, mlp_width=24, qk_norm=False)
_GEMMA = SMALL.replace(
    activation='gelu_tanh', norm_offset=True, post_norms=True,
    scale_embeddings=True, attention_scale=0.3, window=3)
_EXPERTS = SMALL.replace(num_experts=6, experts_per_token=2, expert_width=12)
# Every family that the decoder knows, a few tokens wide.
FAMILIES = {
    'llama3': SMALL.replace(qkv_bias=True, num_kv_heads=1, norm_eps=1e-5,
                            rope_scaling=(8.0, 1.0, 4.0, 16.0)),
    'qwen3': SMALL.replace(qk_norm=True, tied_embeddings=False),
    'gemma2': _GEMMA.replace(
        attention_softcap=1.0, logit_softcap=2.0,
        windowed_layers=(True, False)),
    'gemma3': _GEMMA.replace(
        qk_norm=True, num_layers=3, windowed_layers=(True, True, False),
        rope_theta=1e3, rope_scaling=(8.0,), local_rope_theta=100.0),
    'windows': SMALL.replace(window=2),
    'mixtral': _EXPERTS.replace(tied_embeddings=False),
    'olmoe': _EXPERTS.replace(normalize_experts=False, qk_norm=True,
                              qk_norm_whole=True, experts_per_token=3),
    'capacity': _EXPERTS.replace(expert_dispatch='capacity',
                                 expert_capacity=0.7),
    'lora': SMALL.replace(lora_rank=2, lora_alpha=3.0),
    'lora with experts': _EXPERTS.replace(
        qk_norm=True, lora_rank=2, lora_targets=('value', 'out')),
}

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
  if config.scale_embeddings:
    x = x * np.sqrt(config.width)
  for layer in range(config.num_layers):
    p = {name: value[layer] for name, value in params['layers'].items()}
    windowed = config.window is not None and (
        not config.windowed_layers or config.windowed_layers[layer])
    y = _attention(config, p, _norm(config, x, p['attention_norm']), windowed)
    if config.post_norms:
      y = _norm(config, y, p['post_attention_norm'])
    x = x + y
    y = _norm(config, x, p['mlp_norm'])
    y = experts(config, p, y) if config.num_experts else _mlp(config, p, y)
    if config.post_norms:
      y = _norm(config, y, p['post_mlp_norm'])
    x = x + y
  return _norm(config, x, params['final_norm'])


def logits(config, params, hidden):
  """Of the next token, [T, V]."""
  head = (np.float64(params['embedding']).T if config.tied_embeddings
          else np.float64(params['head']))
  return _cap(hidden @ head, config.logit_softcap)


def experts(config, p, x):
  """The mixture of one row [T, D], token by token and expert by expert."""
  out, taken = np.zeros(x.shape), np.zeros(config.num_experts, int)
  k, count = config.experts_per_token, config.num_experts
  capacity = len(x)
  if config.expert_dispatch == 'capacity':
    capacity = int(np.ceil(config.expert_capacity * len(x) * k / count))
  for t in range(len(x)):
    z = x[t] @ p['router']
    probs = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    chosen = np.argsort(-probs, kind='stable')[:k]
    total = probs[chosen].sum() if config.normalize_experts else 1.
    for e in chosen:
      taken[e] += 1
      if taken[e] > capacity:
        continue
      inner = _act(config, x[t] @ p['expert_gate'][e]) * (
          x[t] @ p['expert_up'][e])
      out[t] += probs[e] / total * (inner @ p['expert_down'][e])
  return out


def _mlp(config, p, x):
  inner = _act(config, _linear(config, p, 'gate', x, 'td,df->tf'))
  inner = inner * _linear(config, p, 'up', x, 'td,df->tf')
  return _linear(config, p, 'down', inner, 'tf,fd->td')


def _act(config, x):
  if config.activation == 'gelu_tanh':
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x ** 3)))
  return x / (1 + np.exp(-x))


def _cap(x, cap):
  return x if cap is None else cap * np.tanh(x / cap)


def _linear(config, p, name, x, spec):
  """With an adapter: the weight a·b · α / r is added to w."""
  w = p[name]
  if config.lora_rank and name in config.lora_targets:
    w = w + config.lora_alpha / config.lora_rank * np.tensordot(
        p[f'{name}_lora_a'], p[f'{name}_lora_b'], 1)
  return np.einsum(spec, x, w)


def _attention(config, p, x, windowed):
  length, dim = len(x), config.head_dim
  names = ('query', 'key', 'value')
  q, k, v = (_linear(config, p, name, x, 'td,dhk->thk') for name in names)
  if config.qkv_bias:
    q, k, v = (y + p[f'{name}_bias'] for y, name in zip((q, k, v), names))
  if config.qk_norm:
    q = _head_norm(config, q, p['query_norm'])
    k = _head_norm(config, k, p['key_norm'])
  q, k = _rotate(config, q, windowed), _rotate(config, k, windowed)
  scale = config.attention_scale or 1 / np.sqrt(dim)
  out = np.zeros(q.shape)
  for head in range(config.num_heads):
    kv = head // (config.num_heads // config.num_kv_heads)
    for t in range(length):
      first = max(0, t + 1 - config.window) if windowed else 0
      scores = _cap(k[first:t + 1, kv] @ q[t, head] * scale,
                    config.attention_softcap)
      probs = np.exp(scores - scores.max())
      out[t, head] = probs @ v[first:t + 1, kv] / probs.sum()
  return _linear(config, p, 'out', out, 'thk,hkd->td')


def _rotate(config, x, windowed):
  half = config.head_dim // 2
  out = np.zeros(x.shape)
  theta, scaling = config.rope_theta, config.rope_scaling
  if windowed and config.local_rope_theta is not None:
    theta, scaling = config.local_rope_theta, None
  for t in range(len(x)):
    for i in range(half):
      frequency = theta ** (-2 * i / config.head_dim)
      if scaling is not None and len(scaling) == 1:
        frequency /= scaling[0]
      elif scaling is not None:
        factor, low, high, original = scaling
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


def _head_norm(config, x, scale):
  if config.qk_norm_whole:
    flat = _norm(config, x.reshape(len(x), -1), scale.reshape(-1))
    return flat.reshape(x.shape)
  return _norm(config, x, scale)


def _norm(config, x, scale):
  square = np.mean(x ** 2, axis=-1, keepdims=True)
  return x / np.sqrt(square + config.norm_eps) * (
      1 + scale if config.norm_offset else scale)
