"""The adapter of a run alone, in the format of `peft`."""

import jax
import numpy as np
import pytest

from configs import common
from policyopt import methods
from policyopt.models import lora, peft
from policyopt.training import loop, policies, setup
from tests.models import folders


def _config(**changes):
  config = common.base('quick')
  config.task, config.task_kw = 'arithmetic', dict(digits=1)
  config.model.folder = str(folders.FIXTURES / 'qwen3')
  config.model.kw.update(changes)
  config.warm_start.steps = 0
  config.sampler.max_tokens = 4
  config.update(prompts=4, samples=2, steps=2, checkpoint_every=2)
  config.evaluation.update(problems=4, samples=2)
  config.batching.microbatches = 1
  return config


@pytest.mark.slow
def test_the_adapter_of_a_run(one_device, script, tmp_path):
  config = _config(lora_rank=2, lora_targets=('query', 'value'))
  workdir, out = str(tmp_path / 'run'), str(tmp_path / 'out')
  loop.train(config, methods.from_config(config), workdir)
  done = script('export').export_adapter(workdir, None, out)
  base = config.model.folder
  # q and v: 32 features in, 64 and 32 out, in two layers.
  assert done == dict(step=2, out=out, base=base,
                      parameters=2 * 2 * (32 + 64 + 32 + 32))
  parts = setup.prepare(config, methods.from_config(config))
  parts.close()
  with jax.set_mesh(parts.mesh):
    params, _ = policies.restore_params(parts, workdir)
    first, _ = policies.restore_params(parts, workdir, 0)
  loaded = peft.load(out, parts.model, first, base=base)
  jax.tree.map(np.testing.assert_array_equal, loaded, params)
  assert any((np.asarray(x) != 0).any() for name, x in lora.adapter_only(
      loaded)['layers'].items() if name.endswith('_b'))
