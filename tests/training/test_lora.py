"""Training with an adapter: what moves, what it costs, and what it equals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from policyopt.envs import factory as envs
from policyopt.models import lora, scoring, tokenizer
from policyopt.training import learner as learner_lib
from policyopt.training import state as states
from policyopt.training import warm_start
from policyopt.training.learner import Batching
from tests.training import factory

MODEL = factory.MODEL.replace(lora_rank=4, lora_alpha=8.)
pytestmark = pytest.mark.usefixtures('quick_compiles')


def trainer(name='grpo', *args, **kw):
  return factory.Trainer(name, *args, **{'model': MODEL, **kw})


@pytest.fixture(scope='module')
def stepped():
  """(trainer, state before, state after, metrics) of a step of PPO."""
  made = trainer('ppo', batching=Batching(microbatches=2))
  before = jax.device_get(made.state())
  after, metrics = made.step(made.state(), factory.rollout())
  return made, before, after, metrics


def changed(before, after):
  """Names of the parameters that have changed."""
  same = jax.tree.map(
      lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), before, after)
  return {jax.tree_util.keystr(path, simple=True, separator='/')
          for path, value in jax.tree_util.tree_leaves_with_path(same)
          if not value}


def test_only_the_adapter_and_the_value_head_move(stepped):
  _, before, after, _ = stepped
  wanted = {f'layers/{name}_lora_{side}'
            for name in MODEL.lora_targets for side in 'ab'}
  assert changed(before.params, after.params) == wanted | {
      'value_head/kernel', 'value_head/bias'}
  assert after.step == 1


def test_the_optimizer_has_a_state_for_them_alone(stepped):
  made, _, after, _ = stepped
  trainable, _ = lora.split(after.params)
  moments = after.opt_state[0].trace
  assert jax.tree.structure(moments) == jax.tree.structure(trainable)
  assert jax.tree.map(lambda x: x.sharding, moments) == lora.split(
      made.shardings.params)[0]


@pytest.mark.slow
@pytest.mark.parametrize('shape', [
    (8, 1, 1, 1), (1, 2, 2, 2), (1, 8, 1, 1)])
def test_every_mesh_gives_the_same_step(shape, stepped):
  _, _, expected, expected_metrics = stepped
  sharded = trainer('ppo', factory.mesh(*shape),
                    batching=Batching(microbatches=2))
  state, metrics = sharded.step(sharded.state(), factory.rollout())
  factory.close(factory.learned(state), factory.learned(expected), atol=1e-5)
  factory.close(metrics, expected_metrics, rtol=1e-5, atol=1e-5)
  assert (jax.tree.map(lambda x: x.sharding, state.params)
          == sharded.shardings.params)


@pytest.mark.parametrize('count', [1, 4])
def test_microbatches_equal_the_whole(count, stepped):
  _, _, expected, expected_metrics = stepped
  made = trainer('ppo', batching=Batching(microbatches=count))
  state, metrics = made.step(made.state(), factory.rollout())
  factory.close(factory.learned(state), factory.learned(expected))
  factory.close(metrics, expected_metrics, rtol=1e-5)


def test_the_gradient_is_that_of_the_whole_model(stepped):
  made, before, after, _ = stepped
  assigned, *_ = made.credit(made.state(), factory.rollout())

  def loss(params):
    return learner_lib._loss_function(
        MODEL, made.method, factory.TEMPERATURE, {}, False)(
            params, (assigned, None))[0]

  whole = jax.jit(jax.grad(loss))(before.params)
  # The first momentum is the gradient.
  factory.close(after.opt_state[0].trace, lora.split(whole)[0])
  assert optax.tree.norm(whole) > 1.1 * optax.tree.norm(after.opt_state)


def test_several_updates_of_a_batch(stepped):
  """Epochs and minibatches carry the adapter alone from one to the next."""
  made = trainer('grpo', batching=Batching(epochs=2, minibatches=2))
  before = jax.device_get(made.state())
  after, metrics = made.step(made.state(), factory.rollout())
  assert metrics['loss'][1] == 4
  assert all('_lora_' in name for name in changed(before.params, after.params))


@pytest.mark.slow
def test_there_are_no_gradients_of_frozen_weights():
  """Few tokens and large weights: what is not activations are gradients."""
  wide = MODEL.replace(width=512, mlp_width=2048, value_head=False)
  batch = factory.rollout(groups=2, samples=2)

  def temporary(model):
    made = trainer('grpo', optimizer=optax.sgd(0.1), model=model,
                   batching=Batching(microbatches=2))
    assigned, state, _ = made.credit(made.state(), batch)
    with jax.set_mesh(made.mesh):
      memory = made.learner.update.lower(
          state, assigned, jax.random.key(3)).compile().memory_analysis()
    size = sum(x.nbytes for x in jax.tree.leaves(state.params))
    # The state is updated in place either way.
    assert memory.alias_size_in_bytes >= size
    return memory.temp_size_in_bytes / size

  assert temporary(wide) < .5
  assert temporary(wide.replace(lora_rank=0)) > 1.


@pytest.mark.slow
def test_the_reference_is_the_policy_without_its_adapter():
  made = trainer('grpo')
  assert made.reference is None
  state, batch = made.state(), factory.rollout()
  assigned, state, _ = made.credit(state, batch)
  actual = np.asarray(assigned.rollout.extras['ref_log_probs'])

  def expected(config, params):
    scored = scoring.score(
        config, params, batch.tokens, temperature=factory.TEMPERATURE,
        kept=batch.extras['kept']).log_probs
    return np.where(batch.mask, scored, 0)

  without = expected(*lora.base(MODEL, state.params))
  np.testing.assert_allclose(actual, without, atol=1e-5)
  assert np.abs(expected(MODEL, state.params) - without).max() > .01
  # It is the same one after an update, although the policy is not.
  state, _ = made.update(state, assigned)
  again, *_ = made.credit(state, batch)
  np.testing.assert_array_equal(
      again.rollout.extras['ref_log_probs'], actual)


def test_a_plain_model_needs_a_reference():
  made = factory.trainer('grpo')
  with jax.set_mesh(made.mesh), pytest.raises(
      ValueError, match=r'ref_params is None; a policy without an adapter'):
    made.learner.score(made.state().params, None, factory.rollout())


def test_a_state_may_take_over_the_parameters():
  made = trainer('grpo')

  def make(donate):
    params = jax.device_put(
        factory.parameters(0, MODEL), made.shardings.params)
    state = states.make_state(
        MODEL, made.method, made.optimizer, made.mesh, params,
        jax.random.key(0), donate=donate)
    return params, state

  params, copied = make(False)
  assert not any(x.is_deleted() for x in jax.tree.leaves(params))
  taken_from, taken = make(True)
  assert all(x.is_deleted() for x in jax.tree.leaves(taken_from))
  jax.tree.map(np.testing.assert_array_equal, taken.params, copied.params)


@pytest.mark.slow
def test_frozen_weights_may_be_narrow():
  """bfloat16 weights stay what they are; small steps of the adapter count."""
  made = trainer('grpo', optimizer=optax.sgd(1e-5),
                 model=MODEL.replace(param_dtype='bfloat16'))
  before = jax.device_get(made.state())
  state, _ = made.step(made.state(), factory.rollout())
  moved = changed(before.params, state.params)
  assert moved and all('_lora_' in name for name in moved)
  assert state.params['embedding'].dtype == jnp.bfloat16
  assert all(state.params['layers'][f'query_lora_{side}'].dtype == jnp.float32
             for side in 'ab')


def test_a_warm_start_leaves_the_adapter_off():
  model = MODEL.replace(vocab_size=264, max_length=64)
  mesh, optimizer = factory.mesh(), optax.adam(1e-2)
  env = envs.environment('arithmetic', tokenizer.byte_tokenizer())
  batch = warm_start.warm_batch(env, 0, examples=16, rows=8, length=32)

  params = states.init_params(model, mesh, jax.random.key(0))

  def run(model, params):
    state = warm_start.make_warm_state(model, optimizer, mesh, params)
    before = jax.device_get(state.params)
    step = warm_start.make_warm_step(
        model, optimizer, mesh,
        shardings=warm_start.warm_shardings(model, optimizer, mesh))
    with jax.set_mesh(mesh):
      for _ in range(2):
        state, _ = step(state, batch)
    return before, state

  before, state = run(model, params)
  moved = changed(before, state.params)
  assert 'layers/query' in moved and 'embedding' in moved
  assert not any('_lora_' in name for name in moved)
  # As if there were no adapter, moments included.
  _, expected = run(*lora.base(model, params))
  factory.close(
      (lora.base(model, state.params)[1], state.opt_state),
      (expected.params, expected.opt_state))
