"""The benchmark of updates, at a size at which it measures nothing."""

import json

import pytest

from experiments.bench import updates


@pytest.mark.slow
def test_a_row_of_the_table(tmp_path):
  page, out = tmp_path / 'page.md', tmp_path / 'updates.json'
  page.write_text('<!-- updates: begin -->\n<!-- updates: end -->\nAfter.\n')
  updates.main(['--models=nano', '--dtypes=float32', '--prompts=12',
                '--groups=2', '--samples=3', '--response=4', '--rounds=2',
                '--microbatches=2', f'--out={out}', f'--page={page}'])
  row, = json.loads(out.read_text())['rows']
  assert row['token_ratio'] == 3 * 16 / (12 + 3 * 4)
  assert row['gradient_difference'] < 1e-5
  assert row['least'] <= row['ratio'] <= row['most']
  assert '| nano | float32 | 12 | ' in page.read_text()
  assert page.read_text().endswith('After.\n')
