"""Preference methods at special settings are one another."""

import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import methods
from tests.methods import rollouts

NAMES = ('advantages', 'weights', 'loss', 'gradient')


def _same(a, b, rollout, policy):
  a, b = (rollouts.run(m, rollout, policy) for m in (a, b))
  for name in NAMES:
    np.testing.assert_allclose(
        *(np.stack(x[name]) if name == 'gradient' else x[name]
          for x in (a, b)), rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize('kw', [
    dict(divergence='alpha', alpha=1.), dict(kind='robust')])
def test_dpo_by_other_names(kw):
  _same(methods.dpo(**kw), methods.dpo(), *rollouts.make())


def test_forward_kl_is_the_other_end_of_alpha():
  _same(methods.dpo(divergence='alpha', alpha=0.),
        methods.dpo(divergence='forward_kl'), *rollouts.make())


def test_averages_of_single_tokens_are_sums():
  mask = np.zeros((16, 6), bool)
  mask[:, 3] = True
  rollout, policy = rollouts.make(mask=mask)
  _same(methods.dpo(kind='ipo'), methods.dpo(kind='ipo', average=False),
        rollout, policy)
  _same(methods.dpo(average=True), methods.dpo(), rollout, policy)


def test_a_reference_without_opinions_is_no_reference():
  rollout, policy = rollouts.make()
  flat = jnp.where(rollout.mask, -2., 0.)
  rollout = rollout._replace(extras={**rollout.extras, 'ref_log_probs': flat})
  # Lengths differ, so a sum over tokens would see the reference.
  _same(methods.dpo(average=True), methods.cpo(average=True, nll_coef=0.),
        rollout, policy)


def test_simpo_is_cpo_without_likelihood():
  kw = dict(beta=2.5, margin=1., label_smoothing=.1, alpha=.5)
  _same(methods.simpo(**kw), methods.cpo(kind='simpo', nll_coef=0., **kw),
        *rollouts.make())


def test_orpo_without_odds_is_cpo_without_contrast():
  """What is left of both is the likelihood of the chosen rows."""
  rollout, policy = rollouts.make()
  gradients = []
  for method in (methods.orpo(beta=1e-9), methods.cpo(beta=1e-9)):
    gradients.append(rollouts.run(method, rollout, policy)['gradient'][0])
  method = methods.orpo()
  _, roles, *_ = rollouts.assign(
      method, rollouts.initial_state(method), rollout)
  chosen = np.asarray(roles > 0, np.float32)
  assert chosen.any()
  for gradient in gradients:
    np.testing.assert_allclose(gradient, -chosen / chosen.sum(), atol=1e-6)


def test_kto_of_an_unmoved_policy_is_unpaired_apo():
  rollout, policy = rollouts.make()
  rollout = rollout._replace(extras={
      **rollout.extras, 'ref_log_probs': rollout.log_probs})
  _same(methods.kto(), methods.kto(kind='apo_zero_unpaired'), rollout, policy)


def test_kto_subtracts_the_divergence_of_the_whole_batch():
  rollout, _ = rollouts.make()
  ref = jnp.where(rollout.mask, rollout.log_probs - .25, 0)
  rollout = rollout._replace(extras={**rollout.extras, 'ref_log_probs': ref})
  method = methods.kto()
  filled, *_ = rollouts.assign(
      method, rollouts.initial_state(method), rollout)
  rows = np.asarray(rollout.mask).any(1)
  np.testing.assert_allclose(
      filled.extras['sampled_kl'],
      np.full(16, .25 * np.asarray(rollout.mask).sum() / rows.sum()),
      rtol=1e-5)


@pytest.mark.parametrize('name, kw, match', [
    ('dpo', dict(kind='aot'), 'sorts over the batch'),
    ('dpo', dict(kind='aot_unpaired'), 'sorts over the batch'),
    ('dpo', dict(kind='hing'), "did you mean 'hinge'"),
    ('dpo', dict(divergence='kl'), "divergence 'kl'"),
    ('dpo', dict(kind='exo_pair'), 'must be above 0'),
    ('dpo', dict(beta=-1.), 'beta is -1.0'),
    ('cpo', dict(kind='orpo'), "kind of preference loss 'orpo'"),
    ('cpo', dict(kind='hinge', label_smoothing=.1), "'hinge' has none"),
    ('simpo', dict(beta=0.), 'beta is 0.0'),
    ('orpo', dict(nll_coef=-.1), 'nll_coef is -0.1'),
    ('kto', dict(desirable_weight=-1.), 'desirable_weight is -1.0'),
])
def test_wrong_values_are_refused_at_once(name, kw, match):
  with pytest.raises(ValueError, match=match):
    methods.build(name, kw)
