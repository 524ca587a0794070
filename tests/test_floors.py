"""Imports point downwards only, and the lower floors need little."""

import ast
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1] / 'policyopt'
FLOORS = {
    'large_pages': 0, 'names': 0, 'types': 0, 'ops': 1, 'data': 1, 'credit': 2,
    'losses': 2, 'planning': 2, 'envs': 2, 'models': 2, 'rollouts': 3,
    'methods': 4, 'training': 5}
# Takes a method as a value; the scripts bring the two together.
STRANGERS = {('training', 'methods')}
PURE = {'jax', 'numpy', 'chex'}
NEEDS = {'large_pages': set(), 'names': set(), 'types': {'jax'}, 'ops': PURE,
         'credit': PURE, 'losses': PURE, 'planning': PURE}
# Libraries that one file alone knows, so that it alone changes with them.
ONE_FILE = {'flax': 'models/transformer.py',
            'orbax': 'training/checkpoints.py',
            'matplotlib': 'training/curves.py',
            'tensorboardX': 'training/metrics.py'}


def imports(source):
  """(line, dotted module) of every import, wherever in the file it is."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield node.lineno, alias.name
    elif isinstance(node, ast.ImportFrom):
      if node.level:
        yield node.lineno, '.' * node.level
      elif node.module == 'policyopt':
        for alias in node.names:
          yield node.lineno, f'policyopt.{alias.name}'
      else:
        yield node.lineno, node.module
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
      # What importlib or a worker process is told to import.
      if match := re.match(r'(policyopt\.\w+)[\w.:]*$', node.value):
        yield node.lineno, match[1]


def arrows(path, source):
  """What is wrong with the imports of a file at `path` below policyopt/."""
  folder = pathlib.PurePosixPath(path).parts[0].removesuffix('.py')
  if folder not in FLOORS:
    yield f'{path} lies on no floor'
    return
  for line, module in imports(source):
    first, *rest = module.split('.')
    if not first:
      yield f'{path}:{line} imports relatively'
    elif first == 'policyopt':
      other = rest[0] if rest else 'the package itself'
      if other not in FLOORS:
        yield f'{path}:{line} imports {other}, which is on no floor'
      elif (folder, other) in STRANGERS:
        yield f'{path}:{line} {folder} must not know {other}'
      elif folder != other and FLOORS[other] >= FLOORS[folder]:
        yield (f'{path}:{line} {folder} (floor {FLOORS[folder]}) imports '
               f'{other} (floor {FLOORS[other]})')
    elif first not in sys.stdlib_module_names:
      if first not in NEEDS.get(folder, {first}):
        yield f'{path}:{line} {folder} must not need {first}'
      elif ONE_FILE.get(first, path) != path:
        yield f'{path}:{line} only {ONE_FILE[first]} may import {first}'


def test_imports_point_downwards():
  wrong, seen = [], set()
  for file in sorted(ROOT.rglob('*.py')):
    path = file.relative_to(ROOT).as_posix()
    if path == '__init__.py':
      continue
    seen.add(path.split('/')[0].removesuffix('.py'))
    wrong += arrows(path, file.read_text())
  assert not wrong, '\n'.join(wrong)
  assert seen == set(FLOORS)


def test_the_package_itself_imports_nothing_when_loaded():
  tree = ast.parse((ROOT / '__init__.py').read_text())
  names = [alias.name for node in tree.body
           if isinstance(node, (ast.Import, ast.ImportFrom))
           for alias in node.names]
  assert names == ['importlib']


@pytest.mark.parametrize('path, source, message', [
    ('ops/a.py', 'from policyopt.credit import base', 'ops (floor 1) imports'),
    ('types.py', 'import policyopt.ops.segments', 'types (floor 0) imports'),
    ('credit/a.py', 'from policyopt import models', 'credit (floor 2) imports'),
    ('credit/a.py', 'from policyopt.losses import add', 'imports losses'),
    ('rollouts/a.py', 'def f():\n  from policyopt.methods import grpo', ':2 '),
    ('methods/base/a.py', 'import policyopt.training', 'imports training'),
    ('training/a.py', 'from policyopt.methods import grpo', 'must not know'),
    ('training/a.py', "load('policyopt.methods.base.grpo')", 'must not know'),
    ('envs/a.py', "Pool('policyopt.models.cache:f')", 'imports models'),
    ('ops/a.py', 'import jax\nimport optax', ':2 ops must not need optax'),
    ('losses/a.py', 'from flax import linen', 'losses must not need flax'),
    ('planning/a.py', 'import scipy.stats', 'must not need scipy'),
    ('types.py', 'import numpy as np', 'types must not need numpy'),
    ('models/cache.py', 'import flax.linen', 'only models/transformer.py may'),
    ('training/loop.py', 'from orbax import checkpoint', 'may import orbax'),
    ('ops/a.py', 'from . import segments', 'imports relatively'),
    ('credit/a.py', 'from policyopt import grpo', 'grpo, which is on no floor'),
    ('credit/a.py', 'import policyopt', 'the package itself'),
    ('helpers/a.py', 'import jax', 'lies on no floor'),
])
def test_a_wrong_arrow_is_seen(path, source, message):
  wrong = list(arrows(path, source))
  assert len(wrong) == 1 and message in wrong[0]


@pytest.mark.parametrize('path, source', [
    ('credit/a.py', 'import math, jax, numpy, chex\n'
                    'from policyopt import ops, types\n'
                    'from policyopt.credit.base import chain'),
    ('methods/base/a.py', 'from policyopt import credit, rollouts, models'),
    ('training/a.py', 'from policyopt.rollouts import sampler\nimport optax'),
    ('models/transformer.py', 'from flax import linen as nn'),
    ('ops/a.py', '"""Says that policyopt.training and others exist."""'),
])
def test_a_right_arrow_is_left_alone(path, source):
  assert list(arrows(path, source)) == []
