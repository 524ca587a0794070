"""An optax optimizer from a config: the names and arguments are optax's own."""

from __future__ import annotations

from collections.abc import Mapping
import inspect
from typing import Any

import optax

from policyopt.names import check_name
from policyopt.training.low_precision import low_precision


def make_optimizer(
    name: str = 'adamw', learning_rate: float = 1e-3, warmup_steps: int = 0,
    decay_steps: int = 0, clip_norm: float | None = 1.0,
    kw: Mapping[str, Any] | None = None, rounding: str = 'nearest',
    moments: str | None = None) -> optax.GradientTransformation:
  """Clips the global norm, then applies the named optax optimizer.

  Args:
    name: of a factory in `optax`, such as 'adamw' or 'sgd'.
    learning_rate: the peak rate.
    warmup_steps: updates of linear warm-up from 5% of the peak.
    decay_steps: updates of cosine decay to 0 after the warm-up; 0 keeps the
      rate constant.
    clip_norm: largest global gradient norm, or None.
    kw: further arguments of the factory.
    rounding: 'nearest', or 'stochastic' for parameters stored in bfloat16: no
      update is too small to count.
    moments: 'float32' or 'bfloat16', in which the optimizer's state is
      stored; None for the parameters' own dtype.

  Returns:
    An optax.GradientTransformation.

  Raises:
    ValueError: for an unknown factory or argument, naming the nearest.

  Example:
    >>> import jax.numpy as jnp
    >>> optimizer = make_optimizer('sgd', 0.5, clip_norm=None)
    >>> update, _ = optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
    >>> update.tolist()
    [-0.5, -0.5]
  """
  known = [n for n in dir(optax)
           if n.islower() and inspect.isfunction(getattr(optax, n))
           and 'learning_rate' in inspect.signature(
               getattr(optax, n)).parameters]
  check_name('optimizer.name', name, known)
  factory = getattr(optax, name)
  arguments = inspect.signature(factory).parameters
  for argument in kw or {}:
    check_name(f'argument of optimizer {name}', argument, arguments)
  rate = make_schedule(learning_rate, warmup_steps, decay_steps)
  optimizer = factory(learning_rate=rate, **(kw or {}))
  if clip_norm is not None:
    optimizer = optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)
  if rounding == 'nearest' and moments is None:
    return optimizer
  return low_precision(optimizer, rounding=rounding, moments=moments)


def make_schedule(
    peak: float, warmup_steps: int = 0, decay_steps: int = 0
) -> optax.Schedule:
  """The learning rate of each update.

  Args:
    peak: the largest rate.
    warmup_steps: updates over which the rate rises to it, from a twentieth.
    decay_steps: updates over which it falls to zero along a cosine, after
      that; 0 keeps it.

  Returns:
    i32[] updates done -> f32[].

  Example:
    >>> float(make_schedule(0.5)(3))
    0.5
  """
  rate = (optax.cosine_decay_schedule(peak, decay_steps) if decay_steps
          else optax.constant_schedule(peak))
  if not warmup_steps:
    return rate
  warmup = optax.linear_schedule(0.05 * peak, peak, warmup_steps)
  return optax.join_schedules([warmup, rate], [warmup_steps])
