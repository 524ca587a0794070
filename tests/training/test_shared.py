"""Tests of updates in which the model reads each prompt once."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from policyopt.models import partitioning, shared
from policyopt.models.shared import Sizes
from policyopt.training import shared as shared_training
from policyopt.training.compiles import count_compiles
from policyopt.training.learner import Batching
from policyopt.training.shared import make_measure
from tests.training import factory

pytestmark = pytest.mark.usefixtures('quick_compiles')
SIZES = Sizes(samples=4, prompt=5, response=10)


@pytest.fixture(scope='module')
def batch():
  """Groups with one prompt each, rows and a group that take no part."""
  rollout = factory.rollout()
  rows = np.arange(16)
  start = np.asarray(shared.lay(rollout.mask, SIZES).start)
  prompt = np.arange(factory.TOKENS)[None, :] < start[:, None]
  tokens = np.where(prompt, np.asarray(rollout.tokens)[rows // 4 * 4],
                    rollout.tokens)
  out = np.isin(rows, [6, 8, 9, 10, 11])
  mask = rollout.mask & ~out[:, None]
  zero = lambda x: jnp.where(
      mask.reshape(mask.shape + (1,) * (x.ndim - 2)), x, 0)
  return rollout._replace(
      tokens=jnp.asarray(tokens), mask=mask, log_probs=zero(rollout.log_probs),
      extras=rollout.extras | {'kept': zero(rollout.extras['kept'])},
      group=jnp.where(out, -1, rollout.group))


def step(name, batch, where=None, **batching):
  """(state, metrics) of one step."""
  trainer = factory.Trainer(
      name, where, batching=Batching(**batching), sizes=SIZES)
  return trainer.step(trainer.state(), batch)


@pytest.mark.parametrize('name', [
    'grpo', *(pytest.param(name, marks=pytest.mark.slow)
              for name in factory.METHODS if name != 'grpo')])
def test_the_step_is_the_same(name, batch):
  expected, expected_metrics = step(name, batch, microbatches=2)
  state, metrics = step(name, batch, microbatches=2, share_prompts=True)
  # The momentum is the gradient itself.
  assert optax.tree.norm(expected.opt_state) > 0.1
  factory.close(factory.learned(state), factory.learned(expected), atol=1e-6)
  factory.close(metrics, expected_metrics, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('shape', [(4, 1, 2, 1), (2, 2, 2, 1)])
def test_over_a_mesh(shape, batch):
  expected, expected_metrics = step('grpo', batch)
  state, metrics = step('grpo', batch, factory.mesh(*shape),
                        share_prompts=True)
  factory.close(factory.learned(state), factory.learned(expected), atol=1e-5)
  factory.close(metrics, expected_metrics, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_minibatches_are_whole_groups(batch):
  """Also where rows of a group take no part."""
  def update(**batching):
    trainer = factory.Trainer('rloo', sizes=SIZES, batching=Batching(
        minibatches=2, **batching))
    assigned, state, _ = trainer.credit(trainer.state(), batch)
    # So that the rows that take no part stay with the others.
    rollout = assigned.rollout._replace(group=jnp.arange(16) // 4)
    return trainer.update(state, assigned._replace(rollout=rollout))

  expected, expected_metrics = update()
  state, metrics = update(share_prompts=True, microbatches=2)
  factory.close(factory.learned(state), factory.learned(expected), rtol=1e-5,
                atol=1e-4)
  factory.close(metrics, expected_metrics, rtol=1e-4, atol=1e-5)


def test_few_sizes_and_programs(batch):
  trainer = factory.Trainer('grpo', sizes=SIZES, batching=Batching(
      buckets=2, share_prompts=True))
  state, _ = trainer.step(trainer.state(), batch)
  measure = make_measure(trainer.mesh, Sizes(4, 20, 40), 2)
  sizes = set()
  for last in (5, 6, 12):
    mask = batch.mask & (np.arange(factory.TOKENS) < last)[None, :]
    sizes.add(measure(batch._replace(mask=mask)))
  assert sizes == {Sizes(4, 16, 24)}
  mask = jnp.arange(60)[None, :] == jnp.array([18] * 15 + [50])[:, None]
  assert measure(batch._replace(
      mask=mask, tokens=jnp.ones(mask.shape, jnp.int32))) == Sizes(4, 20, 40)
  with count_compiles() as compiles:
    trainer.step(state, batch)
  assert compiles.count == 0


def test_an_update_does_not_look_at_the_rows(batch, monkeypatch):
  """What was found out before the score is all that it needs to know."""
  trainer = factory.Trainer('grpo', sizes=SIZES, batching=Batching(
      share_prompts=True))
  state, learner, looks = trainer.state(), trainer.learner, []
  monkeypatch.setattr(shared_training, 'np', types.SimpleNamespace(
      asarray=lambda x: looks.append(x) or np.asarray(x)))
  with jax.set_mesh(trainer.mesh):
    known = learner.measure(jax.device_put(
        batch, partitioning.rows(trainer.mesh)))
    assert not looks
    scored = learner.score(state.params, trainer.reference, batch, **known)
    credit, *_ = learner.credit(state.credit_state, scored)
    actual, _ = learner.update(state, credit, jax.random.key(3), **known)
  # Both have read the same four numbers, and nothing that came later.
  assert [x is known['found'] for x in looks] == [True, True]
  expected, _ = trainer.step(trainer.state(), batch)
  factory.close(factory.learned(actual), factory.learned(expected), atol=0)


def test_a_batch_of_another_structure_is_refused(batch):
  measure = make_measure(factory.mesh(), SIZES, 1)
  assert measure(batch) == SIZES
  # Rows that take no part may hold anything.
  loud = batch.tokens.at[6].set(39).at[8:12].set(39)
  assert measure(batch._replace(tokens=loud)) == SIZES
  with pytest.raises(ValueError, match='tokens before the response of row 5 '):
    measure(batch._replace(tokens=batch.tokens.at[5, 0].add(1)))
  with pytest.raises(ValueError, match='14 rows is not made of groups of samp'):
    measure(factory.take(batch, np.arange(14)))
  with pytest.raises(ValueError, match='more than sampler.max_tokens = 4'):
    make_measure(factory.mesh(), Sizes(4, 5, 4), 1)(batch)
  shuffled = factory.take(batch, np.random.default_rng(0).permutation(16))
  with pytest.raises(ValueError, match='share_prompts = False'):
    measure(shuffled)


def test_all_that_a_method_may_ask_of_the_scores(batch):
  names = ('hidden_states', 'top_probs', 'sum_squared_probs', 'values',
           'prompt_log_probs', 'old_log_probs', 'ref_log_probs')

  def need(method):
    advantages = method.advantages
    return method._replace(advantages=advantages._replace(
        needs=advantages.needs | set(names)))

  def scored(**batching):
    trainer = factory.Trainer('rloo', change=need, sizes=SIZES,
                              batching=Batching(**batching))
    return trainer.credit(trainer.state(), batch)[0].rollout.extras

  expected, extras = scored(), scored(share_prompts=True, microbatches=2)
  assert np.abs(expected['prompt_log_probs']).max() > 1
  for name in names:
    factory.close(extras[name], expected[name], atol=1e-5)
