"""How XLA's CPU backend compiles: for less, where nothing is lost by it.

A run on a CPU waits longer for its compiler than for its first step. LLVM's
third level of optimisation makes no program of a run faster than its second.
And the emitters that are to vectorise fusions pay only where loops over numbers
take much of the time, as in the update of a model.

An update also has the most arrays. By the order that needs the least memory a
process takes 4 to 10 % less of it and no longer (two cores; the default order
is for operations that run side by side, which makes the sampler 5 % faster).
"""

from __future__ import annotations

import jax

# An XLA that does not know an option refuses it, so only where they are known.
_KNOWN = '0.10.'

_BOTH = {'xla_backend_optimization_level': 2}
LOOPS = _BOTH | {
    'xla_cpu_scheduler_type': 'CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED'}
PRODUCTS = _BOTH | {'xla_cpu_use_fusion_emitters': False}


def options(mesh: jax.sharding.Mesh | None, loops: bool = False
            ) -> dict[str, bool | int | str] | None:
  """What to give to `jax.jit` as `compiler_options`.

  Args:
    mesh: that the program runs on; None: JAX's default device.
    loops: it spends much of its time on what is not a matrix product, and
      has the largest arrays.

  Returns:
    Names of options with their values; None where there is nothing to gain:
    off the CPU, and where all programs are compiled in haste anyway.

  Example:
    >>> exp = jax.jit(jax.numpy.exp, compiler_options=options(None))
    >>> float(exp(0.0))
    1.0
  """
  platform = (jax.default_backend() if mesh is None
              else mesh.devices.flat[0].platform)
  if (platform != 'cpu' or not jax.__version__.startswith(_KNOWN)
      or jax.config.read('jax_disable_most_optimizations')):
    return None
  return dict(LOOPS if loops else PRODUCTS)
