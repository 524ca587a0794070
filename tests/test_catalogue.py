"""METHODS.md says what the code says."""

import importlib.util
import pathlib
import re

from policyopt import methods

ROOT = pathlib.Path(__file__).parents[1]


def _script():
  spec = importlib.util.spec_from_file_location(
      'catalogue', ROOT / 'experiments' / 'catalogue.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_the_page_is_up_to_date():
  text = (ROOT / 'METHODS.md').read_text('utf-8')
  assert text == _script().page(), 'run python experiments/catalogue.py'


def test_every_method_has_paper_file_and_config():
  text = (ROOT / 'METHODS.md').read_text('utf-8')
  for name in methods.names():
    row = re.search(rf'^\| \[`{name}`\]\((.+?)\) \| (.+)$', text, re.M)
    assert row, name
    assert (ROOT / row[1]).is_file()
    summary, paper, config, *_ = row[2].split(' | ')
    assert summary and paper, f'{name}: its docstring names no paper'
    assert (ROOT / re.search(r'\((.+)\)', config)[1]).is_file()
