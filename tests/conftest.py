"""Settings of every test: eight CPU devices, JAX at its strictest, and quick.

Programs here run once or twice, on a handful of tokens, so that nearly all of
their time is the compiler's. Unoptimised, by the older code generator and in
one piece, they are compiled in a tenth of it. `XLA_FLAGS= pytest ...` compiles
as a real run does; tests of rounding do so by themselves.
"""

import gc
from importlib import metadata
import json
import os
import pathlib

# Before jax is imported: the tests never touch an accelerator.
os.environ['JAX_PLATFORMS'] = 'cpu'
# An XLA that does not know a flag ends the process, so only where they were
# seen to work.
_FLAGS = ('--xla_cpu_use_fusion_emitters=false '
          '--xla_cpu_parallel_codegen_split_count=1'
          if metadata.version('jaxlib').startswith('0.10.') else '')
QUICK = os.environ.setdefault('XLA_FLAGS', _FLAGS) == _FLAGS

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from policyopt.models import partitioning  # noqa: E402

jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_debug_key_reuse', True)
jax.config.update('jax_disable_most_optimizations', QUICK)

HERE = pathlib.Path(__file__).parent


def pytest_addoption(parser):
  """Adds `--golden`, the folder of the reference vectors."""
  parser.addoption(
      '--golden', default=str(HERE / 'golden'), metavar='DIR',
      help='folder with the golden vectors (default: tests/golden)')


def pytest_terminal_summary(terminalreporter):
  """Counts the golden cases per file, and names the files nothing reads."""
  reports = [report for kind in ('passed', 'failed')
             for report in terminalreporter.stats.get(kind, ())]
  properties = [item for report in reports
                for item in getattr(report, 'user_properties', ())]
  counts = dict(value for name, value in properties if name == 'golden_cases')
  if not counts:
    return
  terminalreporter.section('golden vectors')
  width = max(map(len, counts))
  for name in sorted(counts):
    terminalreporter.line(f'{name:{width}}  {counts[name]:4} cases')
  terminalreporter.line(
      f'{len(counts)} files, {sum(counts.values())} cases, none skipped')
  for name, files in properties:
    if name == 'golden_without_adapter' and files:
      terminalreporter.line(f'without an adapter: {", ".join(files)}')


@pytest.fixture(scope='module', autouse=True)
def kept_programs():
  """What a module has compiled stays, and the collector looks at it no more.

  Else it would take a tenth of the time, going through millions of objects.
  """
  yield
  gc.collect()
  gc.freeze()


@pytest.fixture(scope='session')
def golden_dir(request) -> pathlib.Path:
  """The folder of the golden vectors."""
  return pathlib.Path(request.config.getoption('--golden'))


@pytest.fixture(scope='session')
def golden(golden_dir):
  """`golden('gae')` is the content of gae.json: a dict with its `cases`."""
  def load(name):
    name = name.removesuffix('.json')
    return json.loads((golden_dir / f'{name}.json').read_text())
  return load


@pytest.fixture
def x64():
  """Turns on float64 for one test; only golden tests need it."""
  # They draw nothing, and to look for keys makes every call slow.
  with jax.enable_x64(True), jax.debug_key_reuse(False):
    yield


@pytest.fixture(scope='module')
def quick_compiles():
  """For programs that run once or twice: most of their time is LLVM's."""
  before = jax.config.read('jax_disable_most_optimizations')
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', before)


@pytest.fixture
def key():
  """A fresh random key."""
  return jax.random.key(0)


@pytest.fixture
def rng():
  """A fresh numpy generator."""
  return np.random.default_rng(0)


@pytest.fixture
def one_device(monkeypatch):
  """Meshes of one device, as the scripts have them here."""
  make_mesh = partitioning.make_mesh
  monkeypatch.setattr(
      partitioning, 'make_mesh',
      lambda shape, devices=None: make_mesh(
          shape, devices or jax.devices()[:1]))
