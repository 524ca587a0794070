"""Scorers that run in verifier processes; nothing here may import JAX."""

from __future__ import annotations

from typing import Any

import reasoning_gym

_DATASETS: dict[str, Any] = {}


def reasoning_gym_score(
    dataset: str, params: dict[str, Any], response: str,
    entry: dict[str, Any]) -> float:
  """Lets a reasoning-gym dataset judge a response.

  Args:
    dataset: registered name.
    params: its parameters, as the problem was made with.
    response: what was answered, without the stop token.
    entry: the problem as the dataset made it.

  Returns:
    The dataset's own score, usually in [0, 1].

  Example:
    >>> reasoning_gym_score('chain_sum', {}, '7', {'answer': '7'})
    1.0
  """
  key = f'{dataset} {sorted(params.items())!r}'
  if key not in _DATASETS:
    _DATASETS[key] = reasoning_gym.create_dataset(
        dataset, seed=0, size=1024, **params)
  return float(_DATASETS[key].score_answer(response, entry))
