"""Low-rank adapters: which parameters are theirs, and how they are merged.

The layers themselves declare an adapter's parameters beside each weight W that
it changes: `NAME_lora_a` [L, in..., r] and `NAME_lora_b` [L, r, out...], with

  y = x W + (x a) b · α / r.

b begins at zero, so a fresh adapter changes nothing. What is here only cuts
the tree of parameters into parts and joins them again: no part is copied.

Source: "LoRA: Low-Rank Adaptation of Large Language Models", Hu et al., 2021,
arXiv 2106.09685.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp

from policyopt.models import partitioning, transformer
from policyopt.models.config import ModelConfig

Params = Any

_A, _B = '_lora_a', '_lora_b'


def split(params: Params) -> tuple[Params, Params]:
  """What reinforcement learning trains, and what it leaves as it is.

  With an adapter: the adapter and the value head are trained, nothing else.
  Without one: everything is trained.

  Args:
    params: a nested dict with anything as leaves (arrays, shardings, shapes).

  Returns:
    (trainable, frozen), nested dicts whose leaves are those of `params`; a
    dict that would be empty is left out.

  Example:
    >>> split({'embedding': 1, 'value_head': {'bias': 2}, 'layers': {
    ...     'query': 3, 'query_lora_a': 4, 'query_lora_b': 5}})[0]
    {'value_head': {'bias': 2}, 'layers': {'query_lora_a': 4, \
'query_lora_b': 5}}
  """
  if not adapter_only(params):
    return params, {}
  trained = lambda path: _is_adapter(path) or path[0] == 'value_head'
  return (_pick(params, trained),
          _pick(params, lambda path: not trained(path)))


def join(first: Params, second: Params) -> Params:
  """The parameters of two disjoint parts, such as those of `split`.

  Raises:
    ValueError: both parts have a parameter of the same name.

  Example:
    >>> join({'layers': {'up': 1}}, {'layers': {'up_lora_a': 2}})
    {'layers': {'up': 1, 'up_lora_a': 2}}
  """
  return _join(first, second, ())


def adapter_only(params: Params) -> Params:
  """The adapter's parameters alone; {} when there is no adapter."""
  return _pick(params, _is_adapter)


def base(config: ModelConfig, params: Params) -> tuple[ModelConfig, Params]:
  """The model with its adapter taken off; shares all of its buffers.

  Args:
    config: of the model.
    params: its parameters.

  Returns:
    (config with lora_rank = 0, its parameters).
  """
  return (config.replace(lora_rank=0),
          _pick(params, lambda path: not _is_adapter(path)))


def attach(config: ModelConfig, mesh: jax.sharding.Mesh, params: Params,
           key: jax.Array) -> Params:
  """Plain weights with a fresh adapter, which changes nothing yet.

  Args:
    config: with lora_rank > 0.
    mesh: where the adapter is made.
    params: of the model without an adapter.
    key: a typed random key, consumed; the adapter is the one that
      `transformer.init` would have made with it.

  Returns:
    The parameters; those of `params` are not copied.
  """
  places = adapter_only(partitioning.param_shardings(config, mesh))
  make = jax.jit(lambda key: adapter_only(transformer.init(config, key)),
                 out_shardings=places)
  return join(params, make(key))


def merge(config: ModelConfig, params: Params) -> tuple[ModelConfig, Params]:
  """Adds the adapter to the weights: W + a b · α / r.

  The sum is made in float32 (or wider) and rounded once to the dtype of W.

  Args:
    config: of the model.
    params: its parameters.

  Returns:
    (config with lora_rank = 0, its parameters): a plain model that gives the
    same logits up to rounding. Equals `base` before anything is trained.
  """
  plain, merged = base(config, params)
  layers = dict(merged['layers'])
  for name in targets(params):
    layers[name] = _add(
        layers[name], params['layers'][name + _A], params['layers'][name + _B],
        config.lora_alpha / config.lora_rank)
  return plain, {**merged, 'layers': layers}


def targets(params: Params) -> tuple[str, ...]:
  """Names of the weights that the adapter changes, in alphabetical order."""
  return tuple(sorted(name.removesuffix(_A) for name in params['layers']
                      if name.endswith(_A)))


@functools.partial(jax.jit, static_argnums=3)
def _add(weight, a, b, scale):
  """W + a b · scale, one layer after the other along axis 0."""
  wide = jnp.promote_types(weight.dtype, jnp.float32)
  letters = 'cdefghij'
  ins, outs = letters[:a.ndim - 2], letters[a.ndim - 2:weight.ndim - 1]
  change = jnp.einsum(
      f'l{ins}r,lr{outs}->l{ins}{outs}', a.astype(wide), b.astype(wide),
      precision=jax.lax.Precision.HIGHEST)
  return (weight.astype(wide) + scale * change).astype(weight.dtype)


def _is_adapter(path: tuple[str, ...]) -> bool:
  return path[-1].endswith((_A, _B))


def _pick(tree: Params, wanted: Callable[[tuple[str, ...]], bool],
          path: tuple[str, ...] = ()) -> Params:
  """The leaves at the wanted paths; empty dicts are left out."""
  picked = {}
  for name, value in tree.items():
    here = (*path, name)
    if isinstance(value, dict):
      value = _pick(value, wanted, here)
      if value:
        picked[name] = value
    elif wanted(here):
      picked[name] = value
  return picked


def _join(first, second, path):
  joined = dict(first)
  for name, value in second.items():
    if name not in joined:
      joined[name] = value
    elif isinstance(value, dict) and isinstance(joined[name], dict):
      joined[name] = _join(joined[name], value, (*path, name))
    else:
      raise ValueError(f'both parts have {"/".join((*path, name))!r}; the '
                       'parts that are joined must have no name in common')
  return joined
