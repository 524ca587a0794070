"""The README tells the truth: its examples run, its files exist."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / 'README.md').read_text('utf-8')


@pytest.mark.parametrize('code', re.findall(r'```python\n(.*?)```', TEXT, re.S))
def test_examples_run(code):
  exec(compile(code, 'README.md', 'exec'), {})  # noqa: S102


def test_files_exist():
  links = re.findall(r'\]\((?!https?:)([^)#]+)\)', TEXT)
  names = re.findall(r'(?:configs|experiments)/[a-z_]+\.(?:py|json)', TEXT)
  assert links and names
  for name in links + names:
    assert (ROOT / name).exists(), name


def test_every_method_is_in_the_table():
  from policyopt import methods
  for name in methods.names():
    assert re.search(rf'^\| `{name}` \|', TEXT, re.M), name
