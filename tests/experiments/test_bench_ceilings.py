"""The measurement of ceilings, at a size at which it measures nothing."""

import json

import jax
import pytest

from experiments.bench import ceilings
from policyopt.training import profile_table


@pytest.fixture
def result():
  with jax.default_device(jax.devices()[0]):
    return ceilings.measure(((8, 16, 4),), 2**12, repeats=2)


def test_the_rows_and_who_reads_them(result, tmp_path):
  kinds = [(row['dtype'], row['result']) for row in result['gemm']]
  assert kinds == [('float32', 'float32'), ('bfloat16', 'bfloat16'),
                   ('bfloat16', 'float32')]
  assert [row['donated'] for row in result['copy']] == [True, False]
  for row in result['gemm']:
    assert row['gflops'] >= row['median_gflops'] > 0
  path = tmp_path / 'ceilings.json'
  path.write_text(json.dumps(result))
  found, why = profile_table.read_ceilings(str(path), 'bfloat16')
  assert not why and found['flops'] == 1e9 * max(
      row['gflops'] for row in result['gemm'] if row['dtype'] == 'bfloat16')
  assert found['bytes'] == 1e9 * max(row['gbps'] for row in result['copy'])


def test_the_table(result):
  lines = ceilings.markdown(result).splitlines()
  assert len([line for line in lines if line.startswith('| ')]) == 2 + 3 + 2
  assert '| bfloat16 to float32 | 8 x 16 x 4 |' in '\n'.join(lines)
  assert '| copy, donated | 0 MB |' in '\n'.join(lines)
