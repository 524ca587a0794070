"""A learning rate for each arm, chosen on seeds that are not measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.figures import beds


def tuned(train: Callable, rates: Sequence[float], seeds: int, tuning: int,
          score: Callable[[dict], np.ndarray]) -> dict:
  """What an arm does at the learning rate that suits it best.

  Args:
    train: (key, learning rate) -> tree of arrays; pure.
    rates: to choose from, the same for every arm.
    seeds: S, to be measured.
    tuning: further seeds, which only choose the rate.
    score: tree with seeds on axis 0 -> [seeds], of which the highest mean
      wins.

  Returns:
    The tree of the best rate, seeds on axis 0, with 'rate' f64[], the choice,
    and 'scores' f64[rates], the means that it was made by.

  Example:
    >>> found = tuned(
    ...     lambda key, rate: {'x': -(rate - 2.) ** 2}, (1., 2., 4.), 3, 2,
    ...     lambda run: run['x'])
    >>> float(found['rate']), found['x'].tolist()
    (2.0, [0.0, 0.0, 0.0])
  """
  one = jax.jit(jax.vmap(train, (0, None)))
  keys = beds.seeds(seeds + tuning)
  runs = [jax.tree.map(np.asarray, one(keys, jnp.float32(rate)))
          for rate in rates]
  scores = np.array([
      np.mean(score(jax.tree.map(lambda x: x[seeds:], run)), dtype=np.float64)
      for run in runs])
  best = int(np.argmax(scores))
  chosen = jax.tree.map(lambda x: x[:seeds], runs[best])
  return chosen | {'rate': np.float64(rates[best]), 'scores': scores}
