"""What the learner computes only because a method asks for it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from policyopt.models import scoring
from policyopt.training.optimizers import make_schedule
from tests.training import factory

pytestmark = pytest.mark.usefixtures('quick_compiles')
MODELS = ('hidden_states', 'top_probs', 'top_ids', 'sum_squared_probs',
          'prompt_log_probs')


def needing(*names):
  """Makes a method's advantages need them."""
  def change(method):
    advantages = method.advantages
    return method._replace(advantages=advantages._replace(
        needs=advantages.needs | set(names)))
  return change


@pytest.fixture(scope='module')
def scored():
  """The extras of a batch, and the policy's full output."""
  trainer = factory.Trainer('reinforce', change=needing(*MODELS))
  batch = factory.rollout()
  assigned, *_ = trainer.credit(trainer.state(), batch)
  output = scoring.score(
      factory.MODEL, factory.parameters(0), batch.tokens,
      temperature=factory.TEMPERATURE, kept=batch.extras['kept'],
      needs={'hidden', 'logits'})
  return batch, assigned.rollout.extras, output


def test_the_distribution_at_each_token(scored):
  batch, extras, output = scored
  mask = np.asarray(batch.mask)
  probs = np.asarray(jax.nn.softmax(output.logits))[mask]
  np.testing.assert_allclose(
      extras['sum_squared_probs'][mask], np.square(probs).sum(-1), rtol=1e-5)
  np.testing.assert_allclose(
      extras['top_probs'][mask], -np.sort(-probs), atol=1e-6)
  picked = np.take_along_axis(probs, np.asarray(extras['top_ids'])[mask], -1)
  np.testing.assert_allclose(extras['top_probs'][mask], picked, atol=1e-6)
  np.testing.assert_allclose(
      extras['hidden_states'][mask], output.hidden[mask], atol=1e-6)


def test_the_prompt(scored):
  batch, extras, output = scored
  start = np.argmax(np.asarray(batch.mask), axis=1)
  prompt = np.arange(factory.TOKENS)[None] < start[:, None]
  np.testing.assert_allclose(
      extras['prompt_log_probs'], np.where(prompt, output.log_probs, 0),
      atol=1e-6)
  assert np.asarray(extras['prompt_log_probs'])[prompt].min() < -1


def test_nothing_outside_the_mask(scored):
  batch, extras, _ = scored
  for name in MODELS[:-1]:
    assert not np.asarray(extras[name])[~np.asarray(batch.mask)].any()


def test_a_row_without_chosen_tokens_has_no_prompt():
  trainer = factory.Trainer('reinforce', change=needing('prompt_log_probs'))
  batch = factory.pad_rows(factory.rollout(), 8)
  assigned, *_ = trainer.credit(trainer.state(), batch)
  assert not np.asarray(assigned.rollout.extras['prompt_log_probs'])[16:].any()


def test_what_the_trainer_knows():
  schedule = make_schedule(0.5, warmup_steps=4)
  trainer = factory.Trainer(
      'reinforce', change=needing('progress', 'learning_rate'),
      optimizer=optax.sgd(schedule), schedule=schedule)
  state, batch = trainer.state(), factory.rollout()
  for update in range(3):
    told = trainer.learner.inform(state.opt_state, np.float32(.25), batch)
    np.testing.assert_array_equal(told.extras['progress'], np.full(16, .25))
    np.testing.assert_allclose(
        told.extras['learning_rate'], np.full(16, schedule(update)), rtol=1e-6)
    # A skipped update does not move the schedule.
    skipped = batch._replace(rewards={'accuracy': jnp.full_like(
        batch.log_probs, jnp.nan)})
    state, _ = trainer.step(state, skipped)
    state, _ = trainer.step(state, batch)


def test_the_learning_rate_needs_a_schedule():
  with pytest.raises(ValueError, match='schedule is None'):
    factory.Trainer('reinforce', change=needing('learning_rate'))
