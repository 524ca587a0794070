"""Environments by name."""

import subprocess
import sys

import numpy as np
import pytest

from policyopt import envs
from policyopt.envs import factory
from policyopt.models import tokenizer

BYTE = tokenizer.byte_tokenizer()


@pytest.mark.parametrize('spec, kwargs', [
    ('arithmetic', dict(digits=1)),
    ('reasoning_gym:chain_sum', dict(max_terms=3, workers=0))])
def test_every_task_by_name(spec, kwargs):
  assert spec.split(':')[0] in factory.TASKS
  env = envs.environment(spec, BYTE, 'test', **kwargs)
  assert env.name == spec
  ids = np.arange(2)
  scores = env.score(ids, env.answer(ids))
  assert scores.rewards['accuracy'].tolist() == [1., 1.]
  env.close()


@pytest.mark.parametrize('spec, kwargs, message', [
    ('reasoning_gim:chain_sum', {}, "did you mean 'reasoning_gym'"),
    ('nothing', {}, 'Known: .*arithmetic, .*reasoning_gym'),
    ('reasoning_gym', {}, "must be 'reasoning_gym:NAME'"),
    ('arithmetic:two', {}, "must be 'arithmetic'"),
    ('arithmetic', dict(digit=2), "'digit': did you mean 'digits'"),
    ('reasoning_gym:chainsum', {}, "did you mean .*'chain_sum'"),
    ('reasoning_gym:chain_sum', dict(max_digit=2), "'max_digits'")])
def test_wrong_names(spec, kwargs, message):
  with pytest.raises(ValueError, match=message):
    factory.environment(spec, BYTE, **kwargs)


def test_a_missing_package_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'reasoning_gym', None)
  monkeypatch.delitem(
      sys.modules, 'policyopt.envs.reasoning_gym', raising=False)
  with pytest.raises(ImportError, match=r'needs the reasoning_gym package'):
    factory.environment('reasoning_gym:chain_sum', BYTE)


def test_the_folder_exports_its_names_without_importing_jax():
  for name in envs.__all__:
    assert getattr(envs, name) is not None
  assert sorted(envs.__all__) == dir(envs)
  with pytest.raises(AttributeError, match='no attribute'):
    print(envs.missing)
  program = ('import sys; import policyopt.envs.scorers; '
             'assert "jax" not in sys.modules')
  subprocess.run(
      [sys.executable, '-c', program], check=True, timeout=60,
      env={'PYTHONPATH': ':'.join(sys.path)})
