"""Tests of the diagnostics of a batch, on numbers made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.training.credit import Credit
from policyopt.training.signal import signal_metrics
from policyopt.types import Rollout

# Two rows of a group with a signal, two of a flat one, one that takes no part.
MASK = np.array([[0, 1, 1, 0], [0, 1, 0, 0], [0, 1, 1, 1], [0, 0, 1, 0],
                 [0, 0, 0, 0]], bool)
ADVANTAGES = np.array([[0, 2, 2, 0], [0, -1, 9, 0], [0, 0, 0, 0],
                       [0, 0, 0, 0], [7, 7, 7, 7]], np.float32)
REWARDS = np.array([[0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0],
                    [5, 0, 0, 0]], np.float32)


def make(rewards=None, **extras):
  rollout = Rollout(
      tokens=jnp.ones(MASK.shape, jnp.int32), mask=jnp.asarray(MASK),
      log_probs=jnp.zeros(MASK.shape), group=jnp.array([1, 1, 0, 0, -1]),
      rewards={'accuracy': jnp.asarray(REWARDS)} if rewards is None
      else rewards,
      extras={name: jnp.asarray(x) for name, x in extras.items()})
  return Credit(rollout, jnp.asarray(ADVANTAGES),
                jnp.where(MASK, 0.5, 0.).at[2, 1].set(0.))


def numbers(credit):
  metrics = jax.jit(signal_metrics)(credit)
  return {name: (float(a), float(b)) for name, (a, b) in metrics.items()}


def test_what_every_batch_has():
  assert numbers(make()) == {
      'reward': (3, 4), 'response_length': (7, 4), 'rows/left_out': (1, 1),
      'advantage/abs': (5, 7), 'groups/zero_signal': (1, 2),
      'tokens/weighted': (6, 7)}


def test_what_the_extras_add():
  found = numbers(make(
      truncated=[True, False, False, True, True],
      entropy=np.full(MASK.shape, 2., np.float32),
      verdict=np.array([0, 0, 1, 0, 2]), rounds=np.array([3, 3, 3, 3, 3])))
  assert {name: found[name] for name in found.keys() - numbers(make()).keys()
          } == {'truncated': (2, 4), 'entropy/sampled': (14, 7),
                'verifier/timeouts': (1, 1), 'verifier/crashes': (1, 1),
                'rounds': (3, 1)}


def test_several_channels_are_told_apart():
  style = jnp.asarray(np.where(MASK, 0.5, 0), jnp.float32)
  found = numbers(make({'accuracy': jnp.asarray(REWARDS), 'style': style}))
  assert found['reward'] == (3 + 3.5, 4)
  assert found['reward/accuracy'] == (3, 4)
  assert found['reward/style'] == (3.5, 4)


def test_no_rewards():
  assert numbers(make({}))['reward'] == (0, 4)


@pytest.mark.parametrize('zero', ['advantages', 'weights'])
def test_a_group_without_weight_or_advantage_has_no_signal(zero):
  silent = make()._replace(**{zero: jnp.zeros(MASK.shape)})
  assert numbers(silent)['groups/zero_signal'] == (2, 2)
