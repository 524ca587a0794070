"""What is timed: one `Case` per function, ours beside the peer's.

Functions name what they want in their parameters: arrays of `inputs.py`, for
the peer's also modules of `torch_kernels.py` (and 'index', the groups as numpy
has them). Both return arrays by name; every array of the peer's must be among
ours, which may hold more (diagnostics), and is compared before anything is
timed.
"""

from __future__ import annotations

from collections.abc import Callable
import inspect
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from policyopt import losses, ops
from policyopt.types import PolicyOutput, Rollout


class Case(NamedTuple):
  """A function and its peer.

  Attributes:
    name: of the row in the table.
    ours: arrays -> {name: array}; 'loss' is what is differentiated.
    theirs: what the peer's function is called, '' for none.
    peer: modules and arrays -> {name: tensor}.
    by: the array to differentiate by; '' for functions of the forward pass.
    inside: the array [B, T] of the places where outputs are compared, '' for
      everywhere.
    forward: whether the forward pass is timed by itself.
    scaled: whether its growth is measured.
  """
  name: str
  ours: Callable[..., dict[str, Any]]
  theirs: str = ''
  peer: Callable[..., dict[str, Any]] | None = None
  by: str = ''
  inside: str = ''
  forward: bool = True
  scaled: bool = True


def wants(function: Callable) -> tuple[str, ...]:
  """Names of what a function of a case asks for.

  Args:
    function: `Case.ours` or `Case.peer`.

  Returns:
    Its parameters, or its attribute `wants` if they are made up.
  """
  made_up = getattr(function, 'wants', None)
  return made_up or tuple(inspect.signature(function).parameters)


def rollout(mask, log_probs=None, group=None, rewards=None, **extras):
  """A Rollout of those arrays.

  Args:
    mask: bool[B, T].
    log_probs: f32[B, T], of who sampled.
    group: i32[B].
    rewards: f32[B, T], of the only channel.
    **extras: as `Rollout.extras`.

  Returns:
    A Rollout.
  """
  return Rollout(
      tokens=jnp.zeros(mask.shape, jnp.int32), mask=mask,
      log_probs=jnp.zeros(mask.shape) if log_probs is None else log_probs,
      group=jnp.zeros(mask.shape[0], jnp.int32) if group is None else group,
      rewards={} if rewards is None else {'reward': rewards}, extras=extras)


def apply(loss, log_probs, advantages, weights, rollout, **policy):
  """One of our losses, its metrics included, which the peers compute too.

  Args:
    loss: a Loss.
    log_probs: f32[B, T].
    advantages: f32[B, T].
    weights: f32[B, T].
    rollout: see `rollout`.
    **policy: what else the policy puts out.

  Returns:
    The loss and its metrics by name.
  """
  total, metrics = loss.apply(
      PolicyOutput(log_probs, **policy), advantages, weights, rollout)
  means = {name: part / jnp.maximum(weight, 1)
           for name, (part, weight) in metrics.items()}
  return {'loss': total, 'metrics': means}


def reached(case: Case, arrays: dict[str, Any]) -> set[str]:
  """Public functions of `ops` and `losses` that a case runs through.

  Args:
    case: any.
    arrays: what its own side asks for.

  Returns:
    Names as in `ops.__all__` and `losses.__all__`.
  """
  known, seen = public(), set()

  def watch(frame, event, _):
    if event == 'call':
      seen.add(known.get(_origin(frame.f_code)))

  # What is compiled by itself is traced once only, and not seen again.
  jax.clear_caches()
  sys.setprofile(watch)
  try:
    jax.eval_shape(lambda x: case.ours(**x), arrays)
  finally:
    sys.setprofile(None)
  return seen - {None}


def public() -> dict[tuple[str, str], str]:
  """(file, function) -> name, of the public functions of `ops` and `losses`."""
  found = {}
  for module in (ops, losses):
    for name in module.__all__:
      function = inspect.unwrap(getattr(module, name))
      if inspect.isfunction(function):
        found[_origin(function.__code__)] = name
  return found


def _origin(code) -> tuple[str, str]:
  # What a loss consists of are functions inside of the one that made it.
  return code.co_filename, code.co_qualname.partition('.<locals>')[0]
