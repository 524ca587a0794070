"""What waits in host memory until a step needs it.

The reference model is read by the scoring pass alone, and the optimizer's
state by the update alone. Each may lie in pinned host memory between: the
programs fetch it over the bus, and put it back when it has changed. Numbers do
not change, only where they lie.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
from jax.sharding import Mesh
import optax

from policyopt.training.updates import apply_if_finite

_HOST, _DEVICE = 'pinned_host', 'device'


class Offload(NamedTuple):
  """What lies in host memory: the reference model, the optimizer's state."""
  reference: bool = False
  optimizer: bool = False

  def check(self, mesh: Mesh) -> None:
    """Refuses what the devices cannot do.

    Raises:
      ValueError: they have no pinned host memory.
    """
    if not any(self):
      return
    name = self._fields[self.index(True)]
    device = mesh.devices.flat[0]
    kinds = [memory.kind for memory in device.addressable_memories()]
    if not {_HOST, _DEVICE} <= set(kinds):
      raise ValueError(
          f'offload.{name} is True, but a device of platform '
          f'{device.platform!r} has no pinned host memory (its memories: '
          f'{", ".join(kinds)}): set it to False')


def to_host(shardings):
  """The same shardings in pinned host memory."""
  return jax.tree.map(lambda s: s.with_memory_kind(_HOST), shardings)


def fetch(tree, shardings):
  """Inside of a program: what lies on the host comes to the device.

  Args:
    tree: of arrays.
    shardings: where they lie; None, and leaves that are not in host memory,
      change nothing.
  """
  if shardings is None:
    return tree
  return jax.tree.map(
      lambda x, s: jax.device_put(x, s.with_memory_kind(_DEVICE))
      if _on_host(s) else x, tree, shardings)


def make_apply(optimizer: optax.GradientTransformation, shardings=None):
  """`apply_if_finite` of this optimizer, with its state from where it lies.

  Args:
    optimizer: makes the update.
    shardings: of its state; None where it is not offloaded.

  Returns:
    (loss, grads, params, opt_state) -> as `apply_if_finite`.
  """
  def apply(loss, grads, params, opt_state):
    params, opt_state, ok, metrics = apply_if_finite(
        optimizer, loss, grads, params, fetch(opt_state, shardings))
    if shardings is not None:
      opt_state = jax.tree.map(
          lambda x, s: jax.device_put(x, s) if _on_host(s) else x,
          opt_state, shardings)
    return params, opt_state, ok, metrics
  return apply


def _on_host(sharding):
  return sharding.memory_kind == _HOST
