"""Small models compiled for a slice of TPUs that is not there."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None,
    reason="libtpu is not installed: pip install -e '.[aot]'")

# Two layers of the Llama 3.2 1B shape, a small vocabulary, rows of 512.
SMALL = """
from configs import common


def get_config(arg=''):
  config = common.base()
  config.task_kw.max_prompt = 128
  config.model.preset = 'llama3.2-1b'
  config.model.kw.update(
      num_layers=2, vocab_size=2048, dtype='bfloat16', remat='full',
      logit_chunk=128, max_length=512)
  config.mesh.update(data=1, fsdp=-1)
  config.sampler.max_tokens = 384
  config.update(prompts=8, samples=4)
  config.batching.microbatches = 2
  return common.adjust(config, arg)
"""


@pytest.fixture(scope='module')
def compile_for_tpu(tmp_path_factory):
  """Runs the script; (exit code, printed, JSON)."""
  folder = tmp_path_factory.mktemp('aot')
  config = folder / 'small.py'
  config.write_text(SMALL)

  def run(*flags, arg=''):
    out = folder / 'out.json'
    out.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, ROOT / 'experiments' / 'compile_for_tpu.py',
         f'--config={config}:{arg}', f'--json={out}', *flags],
        capture_output=True, text=True, timeout=1200, check=False,
        env=os.environ | {'JAX_PLATFORMS': 'cpu'})
    found = json.loads(out.read_text()) if out.exists() else None
    return done.returncode, done.stdout + done.stderr, found
  return run


def test_a_wrong_topology_ends_in_one_line(compile_for_tpu):
  code, text, _ = compile_for_tpu('--topology=v5e:4')
  assert code == 1
  assert "error: topology 'v5e:4' has 1 axes" in text
  assert 'Traceback' not in text


@needs_libtpu
@pytest.mark.slow
def test_the_decode_loop_holds_one_copy_of_its_cache(compile_for_tpu):
  code, text, found = compile_for_tpu(
      '--topology=v5e:2x2', '--programs=reshard,decode',
      arg='prompts=64,samples=16,rollout.mesh.tensor=4,rollout.dtype=bfloat16')
  assert code == 0, text
  copy, decode = found['programs']
  kinds, cache = decode['memory'], decode['cache']
  assert kinds['aliased'] >= cache
  assert kinds['temporaries'] < 0.05 * cache
  # No weight is fetched inside of the loop: what is sent are activations.
  assert not any(c['kind'] == 'all-gather' and c['bytes'] > 2**16
                 for c in decode['collectives'])
  # Each device is sent what it will hold, once.
  held = copy['memory']['outputs']
  assert sum(c['moved'] for c in copy['collectives']) < 1.2 * held
  assert copy['flops'] == 0 and copy['estimate']['bound'] > 0
  # The update's weights lie beside the sampler's.
  assert decode['memory']['held'] > 3 * copy['memory']['arguments']


@needs_libtpu
@pytest.mark.slow
def test_the_update_fits_and_is_counted(compile_for_tpu):
  code, text, found = compile_for_tpu(
      '--topology=v5e:2x2', '--programs=update,score')
  assert code == 0, text
  assert found['fits'] and found['attention'] == 'auto'
  update, score = found['programs']
  # A step trains by at least three forward passes' worth, with recomputing
  # four; the scoring pass is one.
  assert 3.5 < update['flops'] / score['flops'] < 4.5
  assert update['kernel_flops'] > 0
  assert update['memory']['aliased'] > 0.9 * update['memory']['outputs']
  for program in found['programs']:
    assert program['traffic'] > 0 and program['collectives']
    assert 0 < program['estimate']['bound'] <= program['estimate']['apart']
  assert 'everything fits' in text


@needs_libtpu
@pytest.mark.slow
def test_the_kernels_of_the_loss_head_compile_and_are_counted(compile_for_tpu):
  code, text, found = compile_for_tpu(
      '--topology=v5e:2x2', '--programs=update,score',
      arg='model.kw.loss_head=pallas,model.kw.attention=xla')
  assert code == 0, text
  update, score = found['programs']
  # No other kernels; of each token's logits, 32 rows on four devices.
  product = 2 * (32 * 512 / 4) * 2048 * 2048
  assert score['kernel_flops'] == product
  assert update['kernel_flops'] == 5 * product
  # The head's gradient is exchanged in whole, once for each microbatch.
  exchanged = [c for c in update['collectives']
               if c['bytes'] == 2048 * 2048 * 4
               and c['kind'] in ('all-reduce', 'reduce-scatter')]
  assert sum(c['times'] for c in exchanged) <= 4, exchanged


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize('topology, mesh', [
    ('v5e:2x2', ''), ('v6e:2x2', 'fsdp=2,tensor=2')])
def test_the_kernels_of_the_loss_head_take_less(tmp_path, topology, mesh):
  """Memory, traffic and links; a quarter more arithmetic."""
  out = tmp_path / 'out.json'
  done = subprocess.run(
      [sys.executable, ROOT / 'experiments' / 'aot' / 'loss_head.py',
       f'--topology={topology}', '--preset=qwen3-0.6b', f'--mesh={mesh}',
       f'--json={out}'], capture_output=True, text=True, timeout=600,
      check=False, env=os.environ | {'JAX_PLATFORMS': 'cpu'})
  assert done.returncode == 0, done.stdout + done.stderr
  found = json.loads(out.read_text())
  xla, pallas = found['xla'], found['pallas']
  assert pallas['pflops'] == pytest.approx(1.25 * xla['pflops'])
  assert pallas['temporaries'] < 0.75 * xla['temporaries']
  assert pallas['traffic'] < 0.25 * xla['traffic']
  assert pallas['sent'] < 0.1 * xla['sent'] or not mesh


@needs_libtpu
@pytest.mark.slow
def test_what_does_not_fit_is_refused_and_named(compile_for_tpu):
  code, text, found = compile_for_tpu(
      '--topology=v5e:2x2', '--programs=update',
      arg='model.kw.num_layers=200')
  assert code == 1 and not found['fits']
  assert 'update does not fit' in text and 'The largest parts' in text
