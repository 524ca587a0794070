import os
import pathlib
import platform
import subprocess
import sys

import pytest

from policyopt import large_pages

ROOT = pathlib.Path(__file__).parents[1]
SCRIPT = """
import os
import sys
from policyopt import large_pages
print(os.getpid(), flush=True)
large_pages.restart()
block = bytearray(b'x') * 2 ** 26
with open('/proc/self/smaps_rollup') as file:
  kib = next(line.split()[1] for line in file if 'AnonHugePages' in line)
print(kib, os.environ.get('GLIBC_TUNABLES'), sys.argv[1:])
"""


def _known():
  """Whether this is a glibc that knows how to ask."""
  name, version = platform.libc_ver()
  return name == 'glibc' and tuple(map(int, version.split('.'))) >= (2, 35)


offered = pytest.mark.skipif(
    not (large_pages._offered() and _known()),
    reason='no large pages for those who ask')


def run(tmp_path, tunables=None):
  """The process ids, KiB in large pages, the rest of what the script says."""
  script = tmp_path / 'script.py'
  script.write_text(SCRIPT)
  env = os.environ | {'PYTHONPATH': str(ROOT)}
  env.pop('GLIBC_TUNABLES', None)
  if tunables is not None:
    env['GLIBC_TUNABLES'] = tunables
  out = subprocess.run(
      [sys.executable, script, 'a b', '--c'], env=env, check=True,
      capture_output=True, text=True).stdout.splitlines()
  kib, rest = out[-1].split(' ', 1)
  return out[:-1], int(kib), rest


@offered
def test_it_starts_again_once_as_the_same_process(tmp_path):
  ids, kib, rest = run(tmp_path)
  assert len(ids) == 2 and len(set(ids)) == 1
  assert kib >= 2 ** 15  # Half of the block.
  assert rest == "glibc.malloc.hugetlb=1 ['a b', '--c']"


@offered
def test_other_settings_of_glibc_stay(tmp_path):
  ids, kib, rest = run(tmp_path, 'glibc.malloc.arena_max=2')
  assert len(ids) == 2 and kib >= 2 ** 15
  assert rest.startswith('glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1 ')


@offered
def test_it_can_be_switched_off(tmp_path):
  ids, kib, rest = run(tmp_path, 'glibc.malloc.hugetlb=0')
  assert len(ids) == 1 and kib < 2 ** 15
  assert rest.startswith('glibc.malloc.hugetlb=0 ')


@pytest.mark.parametrize('kernel', [
    'always madvise [never]', '[always] madvise never', None])
def test_kernels_that_are_not_asked(tmp_path, monkeypatch, kernel):
  path = tmp_path / 'enabled'
  if kernel:
    path.write_text(kernel)
  monkeypatch.setattr(large_pages, '_KERNEL', path)
  monkeypatch.delenv('GLIBC_TUNABLES', raising=False)
  # Any call would fail.
  monkeypatch.setattr(os, 'execv', None)
  large_pages.restart()
  assert 'GLIBC_TUNABLES' not in os.environ
