"""Diagnostics of a batch: how much there is to learn from it."""

from __future__ import annotations

import jax.numpy as jnp

from policyopt.ops import segments
from policyopt.training.credit import Credit
from policyopt.types import Metrics, total_reward


def signal_metrics(credit: Credit) -> Metrics:
  """What a batch of rollouts holds, as (sum, weight) pairs.

  Rows that take no part (group -1) are counted in 'rows/left_out' only.

  Args:
    credit: B rows of T tokens.

  Returns:
    name -> (sum f32[], weight f32[]): reward and its channels per row,
    response length in tokens, fraction of groups in which no token has an
    advantage, of rows cut at their limit, of rows whose verifier failed, mean
    |advantage| per token, sampled entropy.
  """
  rollout = credit.rollout
  mask = rollout.mask.astype(jnp.float32)
  row = (rollout.group >= 0).astype(jnp.float32)
  rows, tokens = row.sum(), mask.sum()
  per_row = lambda x: ((x * row).sum(), rows)
  metrics = {
      'reward': per_row(total_reward(rollout).sum(1)),
      'response_length': per_row(mask.sum(1)),
      'rows/left_out': ((1. - row).sum(), jnp.ones(())),
      'advantage/abs': ((jnp.abs(credit.advantages) * mask).sum(), tokens),
      'groups/zero_signal': _zero_signal(credit),
      'tokens/weighted': ((credit.weights != 0).sum(dtype=jnp.float32), tokens),
  }
  if len(rollout.rewards) > 1:
    metrics |= {f'reward/{name}': per_row(x.sum(1))
                for name, x in rollout.rewards.items()}
  extras = rollout.extras
  if 'truncated' in extras:
    metrics['truncated'] = per_row(extras['truncated'].astype(jnp.float32))
  if 'entropy' in extras:
    metrics['entropy/sampled'] = ((extras['entropy'] * mask).sum(), tokens)
  if 'verdict' in extras:
    for code, name in ((1, 'timeouts'), (2, 'crashes')):
      metrics[f'verifier/{name}'] = (
          (extras['verdict'] == code).sum(dtype=jnp.float32), jnp.ones(()))
  if 'rounds' in extras:
    metrics['rounds'] = (extras['rounds'].max().astype(jnp.float32),
                         jnp.ones(()))
  return metrics


def _zero_signal(credit: Credit):
  """Fraction of groups in which no token would move the policy."""
  group = credit.rollout.group
  useful = jnp.abs(credit.advantages * credit.weights).max(1) > 0
  present = segments.segment_count(group) > 0
  flat = present & (segments.segment_sum(useful, group) == 0)
  return flat.sum(dtype=jnp.float32), present.sum(dtype=jnp.float32)
