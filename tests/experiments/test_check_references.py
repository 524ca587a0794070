"""Every reference judges itself correct, or is listed with the reason."""

import json

import pytest

from tests.envs import problem_files as files


@pytest.mark.parametrize('name', ['gsm8k', 'math500', 'aime24'])
def test_references_that_are_right(tmp_path, script, name):
  module = script('check_references')
  files.folder(tmp_path, getattr(files, name), 5, 4)
  counts, exceptions = module.check(name, str(tmp_path), workers=0)
  assert not exceptions
  assert counts == {kind: [9, 9] for kind in module.KINDS}


def test_references_that_are_not_are_listed(tmp_path, script):
  module = script('check_references')
  rows = [files.math500(1), dict(files.math500(3), answer='E_{1},E_{2}'),
          dict(files.math500(7), solution='So \\boxed{8}.')]
  (tmp_path / 'test.jsonl').write_text(
      ''.join(json.dumps(row) + '\n' for row in rows))
  counts, exceptions = module.check('math500', str(tmp_path), workers=0)
  final, worked, as_mathematics = module.KINDS
  assert counts == {final: [3, 3], worked: [1, 3], as_mathematics: [2, 3]}
  found = {(x.kind, x.where.split()[-1]): x.reason for x in exceptions}
  assert set(found) == {(worked, '2'), (worked, '3'), (as_mathematics, '2')}
  assert found[worked, '3'] == "the answer was read as '8'"


def test_a_table_and_the_status(tmp_path, script, monkeypatch, capsys):
  module = script('check_references')
  files.folder(tmp_path / 'gsm8k', files.gsm8k, 2, 2)
  argv = ['check_references.py', f'--data={tmp_path}', '--workers=0']
  module.errors.parse_flags(argv)
  assert module.main(argv[:1]) == 0
  printed = capsys.readouterr().out
  assert '| gsm8k | 4 of 4 | 4 of 4 | 4 of 4 |' in printed
  assert '0 exceptions' in printed
  rows = [dict(files.gsm8k(0), answer='no number')]
  (tmp_path / 'gsm8k' / 'test.jsonl').write_text(json.dumps(rows[0]) + '\n')
  assert module.main(argv[:1]) == 1
  assert 'no answer found' in capsys.readouterr().out
