"""Our functions against what the authors' and peers' own code computed.

Every file holds inputs and outputs of other people's code in float64; the
strings 'nan' and 'inf' mark where that code degenerates. Ours must be finite
there, and equal to 1e-9 everywhere else. Run on another folder of vectors with
`pytest tests/test_golden.py --golden DIR`.
"""

import numpy as np
import pytest

from tests.golden_adapters import ADAPTERS

TOLERANCE = 1e-9
# Where the other code itself computed a part of it in float32.
FLOAT32 = {
    'dapo_overlong_penalty': 'the penalty',
    'trl_group_advantages': "Bessel's factor",
    'trl_rloo_advantages': "Bessel's factor",
}
LOOSE_LABELS = {
    'single member': 1e-7,  # verl divides by a float32 1 + 1e-6
    'near-equal': 1e-5,  # a spread of 1e-7 against an eps of 1e-6
}
ELSEWHERE = {'pass_at_k': 'tests/ops/test_statistics.py'}
MASKS = ('response_mask', 'completion_mask', 'loss_mask', 'mask', 'logprob')


def _array(value):
  if isinstance(value, list):
    return np.array([_array(v) for v in value], np.float64)
  return value if value is None else np.float64(value)


def _pick(outputs, path):
  if path in outputs:
    return _array(outputs[path])
  for part in path.split('/'):
    outputs = outputs[part]
  return _array(outputs)


def _inputs(case):
  return {k: _array(v) for k, v in case['inputs'].items()}


def _padding(name, cases):
  """The shape that all cases of a file get, so that each op compiles once."""
  shapes = [x.shape for c in cases for k, x in _inputs(c).items() if k in MASKS]
  if shapes:
    return tuple(map(max, zip(*shapes)))
  return max(len(x) for c in cases for x in _inputs(c).values()), None


def _pad(name, inputs, padding):
  rows, columns = padding
  padded = {}
  for key, x in inputs.items():
    if x is not None:
      pads = [(0, rows - x.shape[0])] + [(0, 0)] * (x.ndim - 1)
      if columns is not None and x.ndim == 2:
        pads[1] = (0, columns - x.shape[1])
      # TRL marks a reward that is not there by NaN.
      value = np.nan if name.startswith('trl_') else 0
      x = np.pad(
          x, pads, constant_values=-1 if key == 'group_ids' else value)
    padded[key] = x
  return padded


def _tolerance(name, case):
  label = case.get('label') or ''
  loose = [v for k, v in LOOSE_LABELS.items() if k in label]
  return max([TOLERANCE, 1e-7 if name in FLOAT32 else 0., *loose])


def _check(name, case, padding):
  inputs = _inputs(case)
  first = next(iter(inputs.values()))
  params = case['params'] | {'width': first.shape[-1]}
  outputs, mask = ADAPTERS[name](_pad(name, inputs, padding), params)
  assert outputs
  for path, value in outputs.items():
    expected, ours = _pick(case['outputs'], path), np.asarray(value)
    assert np.isfinite(ours).all(), path
    own = tuple(slice(0, size) for size in expected.shape)
    ours, wanted = ours[own], np.isfinite(expected)
    assert ours.shape == expected.shape, path
    if mask is not None and expected.ndim == 2:
      wanted &= mask[own] != 0
    scale = max(1., np.abs(expected[wanted]).max(initial=0.))
    np.testing.assert_allclose(
        ours[wanted], expected[wanted], rtol=_tolerance(name, case),
        atol=1e-12 * scale, err_msg=path)


@pytest.mark.parametrize('name', sorted(ADAPTERS))
def test_golden(name, golden, golden_dir, x64):
  if not (golden_dir / f'{name}.json').exists():
    pytest.fail(f'no {name}.json in {golden_dir}')
  cases, failures = golden(name)['cases'], []
  padding = _padding(name, cases)
  for i, case in enumerate(cases):
    try:
      _check(name, case, padding)
    except AssertionError as error:
      failures.append(f'case {i} {case.get("label")}: {error}')
  assert not failures, '\n'.join(failures)


def test_every_vector_in_the_default_folder_has_an_adapter(request):
  """A file that nothing reads proves nothing."""
  folder = request.path.parent / 'golden'
  names = {path.stem for path in folder.glob('*.json')}
  assert names == set(ADAPTERS) | set(ELSEWHERE)


def test_names_vectors_without_an_adapter(golden_dir, record_property):
  """Lists what a folder given by --golden holds beyond our adapters."""
  names = {path.stem for path in golden_dir.glob('*.json')}
  if not names:
    pytest.fail(f'no golden vectors in {golden_dir}')
  missing = sorted(names - set(ADAPTERS) - set(ELSEWHERE))
  record_property('vectors_without_adapter', missing)
  if missing:
    pytest.skip(f'{len(missing)} files without an adapter: {missing}')
