"""FRAMEWORKS.md is what its script makes of the presets."""

import re

import pytest

from experiments import frameworks_table
from policyopt import methods


@pytest.fixture(scope='module')
def page():
  return frameworks_table.page()


def test_the_page_is_up_to_date(page):
  committed = frameworks_table.ROOT / 'FRAMEWORKS.md'
  assert committed.read_text('utf-8') == page, (
      'run python experiments/frameworks_table.py')


def test_every_difference_has_a_row(page):
  for algorithm, title in frameworks_table.ALGORITHMS.items():
    section = page.split(f'## {title}\n')[1].split('\n## ')[0]
    table, _, agreed = section.partition('\nAll have ')
    dialects = [methods.dialect(framework, algorithm)
                for framework in methods.frameworks()
                if algorithm in methods.algorithms(framework)]
    for field in methods.Dialect._fields[1:-1]:
      cells = [frameworks_table._cell(d, field) for d in dialects]
      row = re.search(rf'^\| `{field}` \| (.*) \|$', table, re.M)
      assert not (row and f'`{field}`' in agreed)
      if row:
        assert row[1].split(' | ') == cells
      elif len({getattr(d, field) for d in dialects}) > 1:
        # They differ where nobody asks.
        assert set(cells) <= {'–', 'none'}


@pytest.mark.parametrize('framework, algorithm, field, shown', [
    ('verl', 'grpo', 'beta', '0'), ('verl', 'grpo', 'kl', '(k3)'),
    ('verl', 'grpo', 'k3_output_limit', '(10)'), ('tunix', 'grpo', 'kl', 'k1'),
    ('verl', 'grpo', 'importance_cap', '–'), ('trl', 'grpo', 'eps', '0.0001'),
    ('trl', 'grpo', 'empty_rows', '(count)'), ('trl', 'rloo', 'eps', '–'),
    ('trl', 'rloo', 'empty_rows', 'count'), ('nemo', 'ppo', 'std', '–'),
    ('prime-rl', 'grpo', 'dual_clip', '–')])
def test_cells(framework, algorithm, field, shown):
  choices = methods.dialect(framework, algorithm)
  assert frameworks_table._cell(choices, field) == shown


def test_check(page, tmp_path, monkeypatch):
  monkeypatch.setattr(frameworks_table, 'ROOT', tmp_path)
  monkeypatch.setattr(frameworks_table, 'page', lambda: page)
  path = tmp_path / 'FRAMEWORKS.md'
  monkeypatch.setattr('sys.argv', ['frameworks_table.py', '--check'])
  with pytest.raises(SystemExit, match='out of date: run python'):
    frameworks_table.main()
  monkeypatch.setattr('sys.argv', ['frameworks_table.py'])
  frameworks_table.main()
  assert path.read_text('utf-8') == page
  monkeypatch.setattr('sys.argv', ['frameworks_table.py', '--check'])
  with pytest.raises(SystemExit) as exit_:
    frameworks_table.main()
  assert exit_.value.code is None
