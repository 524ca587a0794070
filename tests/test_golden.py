"""Our functions against what the authors' and peers' own code computed.

Every file holds inputs and outputs of other people's code in float64; the
strings 'nan' and 'inf' mark where that code degenerates. Ours must be finite
there, and equal to 1e-9 everywhere else. `pytest tests -k golden --golden DIR`
runs the vectors found in another folder; the end of the output says how many
cases of which files were run, and which files have no adapter.
"""

import numpy as np
import pytest

from tests.golden_adapters import ADAPTERS, common

pytestmark = pytest.mark.usefixtures('quick_compiles')
ELSEWHERE = {'pass_at_k': 'tests/ops/test_statistics.py'}
# Half a minute of compiling each.
LONG = {'arm_REFERENCE', 'd3s_REFERENCE', 'dpo_f_divergence', 'nemo_grpo_loo'}
MASKS = ('response_mask', 'completion_mask', 'loss_mask', 'mask', 'logprob')


def pytest_generate_tests(metafunc):
  """One test per file of the folder that an adapter exists for."""
  if 'vectors' in metafunc.fixturenames:
    folder = metafunc.config.getoption('--golden')
    metafunc.parametrize('vectors', [
        pytest.param(name, marks=[pytest.mark.slow] * (name in LONG))
        for name in sorted(_found(folder) & set(ADAPTERS))])


def _found(folder):
  return {path.stem for path in common.folder(folder).glob('*.json')}


def _pick(outputs, path):
  if not path or (isinstance(outputs, dict) and path in outputs):
    return common.array(outputs[path] if path else outputs)
  # A key may itself hold a slash.
  part, _, rest = path.partition('/')
  return _pick(outputs[int(part) if isinstance(outputs, list) else part], rest)


def _inputs(case):
  return {k: common.array(v) for k, v in case['inputs'].items()}


def _padding(cases):
  """The shape that all cases of a file get, so that each op compiles once."""
  shapes = [x.shape for c in cases for k, x in _inputs(c).items() if k in MASKS]
  if shapes:
    return tuple(map(max, zip(*shapes)))
  return max(len(x) for c in cases for x in _inputs(c).values()), None


def _pad(inputs, padding, value):
  rows, columns = padding
  padded = {}
  for key, x in inputs.items():
    if x is not None:
      pads = [(0, rows - x.shape[0])] + [(0, 0)] * (x.ndim - 1)
      if columns is not None and x.ndim == 2:
        pads[1] = (0, columns - x.shape[1])
      ids = key in ('group_ids', 'group')
      x = np.pad(x, pads, constant_values=-1 if ids else value)
    padded[key] = x
  return padded


def _run(adapter, case, padding):
  if adapter.raw:
    return adapter.run(case)
  inputs = _inputs(case)
  first = next(iter(inputs.values()))
  params = case['params'] | {'width': first.shape[-1]}
  run = common.compiled(adapter.run) if adapter.compile else adapter.run
  return run(_pad(inputs, padding, adapter.pad), params)


def _check(adapter, case, padding):
  outputs, mask = _run(adapter, case, padding)
  assert outputs
  if 'error' in case['outputs']:  # That code gave up; ours must be finite.
    assert all(np.isfinite(np.asarray(x)).all() for x in outputs.values())
    return
  tolerance, absolute = (
      x(case) if callable(x) else x
      for x in (adapter.tolerance, adapter.absolute))
  for path, value in outputs.items():
    expected, ours = _pick(case['outputs'], path), np.asarray(value)
    assert np.isfinite(ours).all(), path
    own = tuple(slice(0, size) for size in expected.shape)
    ours, wanted = ours[own], np.isfinite(expected)
    assert ours.shape == expected.shape, path
    if mask is not None and expected.ndim == 2:
      wanted &= np.asarray(mask)[own] != 0
    scale = max(1., np.abs(expected[wanted]).max(initial=0.))
    np.testing.assert_allclose(
        ours[wanted], expected[wanted], rtol=tolerance, atol=absolute * scale,
        err_msg=path)


def test_golden(vectors, golden, record_property, x64):
  cases, failures = golden(vectors)['cases'], []
  adapter = ADAPTERS[vectors]
  padding = None if adapter.raw else _padding(cases)
  for i, case in enumerate(cases):
    try:
      _check(adapter, case, padding)
    except AssertionError as error:
      label = case.get('label') or case.get('name') or case.get('tag')
      failures.append(f'case {i} {label}: {error}')
  record_property('golden_cases', [vectors, len(cases)])
  assert cases and not failures, '\n'.join(failures)


def test_every_vector_in_the_default_folder_has_an_adapter(request):
  """A file that nothing reads proves nothing."""
  folder = request.path.parent / 'golden'
  assert _found(folder) == set(ADAPTERS) | set(ELSEWHERE)


def test_names_vectors_without_an_adapter(golden_dir, record_property):
  """Lists what a folder given by --golden holds beyond our adapters."""
  found = _found(golden_dir)
  assert found, f'no golden vectors in {golden_dir}'
  record_property(
      'golden_without_adapter', sorted(found - set(ADAPTERS) - set(ELSEWHERE)))
