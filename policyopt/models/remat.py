"""What the backward pass recomputes, by name."""

from __future__ import annotations

from collections.abc import Callable

import jax

from policyopt.models.layers import SAVED_NAMES


def policy(name: str) -> Callable | None:
  """For `jax.checkpoint`, of what a layer computes.

  Args:
    name: of `config.REMAT`, but not 'none'.
  """
  policies = jax.checkpoint_policies
  return {
      'full': lambda: policies.nothing_saveable,
      'dots': lambda: policies.dots_with_no_batch_dims_saveable,
      'names': lambda: policies.save_only_these_names(*SAVED_NAMES),
      'offload': lambda: policies.save_and_offload_only_these_names(
          names_which_can_be_saved=[],
          names_which_can_be_offloaded=list(SAVED_NAMES),
          offload_src='device', offload_dst='pinned_host'),
  }[name]()
