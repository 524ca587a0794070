"""GSM8K's format from a published folder to an exported one, very small."""

import json

import numpy as np
import pytest

from configs import gsm8k
from policyopt import methods
from policyopt.training import loop
from tests.envs import problem_files as files
from tests.models import folders

STEPS = 4
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('one_device')]


def small(data, **changes):
  config = gsm8k.get_config('quick')
  config.model.folder = str(folders.FIXTURES / 'qwen3')
  config.task_kw.update(path=data, workers=1, timeout_s=60., worked=False,
                        template='{question}')
  config.warm_start.update(steps=8, examples=16, rows=4, length=768)
  config.warm_start.optimizer.update(learning_rate=1e-2, warmup_steps=0)
  config.optimizer.update(learning_rate=1e-3, warmup_steps=0)
  config.sampler.max_tokens = 12
  config.batching.microbatches = 1
  config.update(prompts=4, samples=4, steps=STEPS, checkpoint_every=2)
  config.evaluation.update(problems=8, samples=4, every=0)
  config.update_from_flattened_dict(changes)
  return config


def run(workdir, data, **changes):
  config = small(data, **changes)
  return loop.train(config, methods.from_config(config), str(workdir))


def test_train_evaluate_export_and_resume(tmp_path, script, outcome):
  data = files.folder(tmp_path / 'data', files.gsm8k, 24, 8)
  whole = tmp_path / 'whole'
  result = run(whole, data)
  assert {'pass1_before', 'pass1_after'} <= set(result)
  rows = [json.loads(line)
          for line in (whole / 'metrics.jsonl').read_text().splitlines()]
  assert len(rows) == STEPS
  assert all(np.isfinite(row['reward']) for row in rows)
  # The chat template of the folder is what the model was shown.
  sample = json.loads((whole / 'samples.jsonl').read_text().splitlines()[0])
  assert 'pens' in str(sample)

  numbers = script('evaluate').evaluate_run(str(whole), None, 8, 4, (1, 2, 4),
                                            seed=0)
  assert numbers['problems'] == 8 and not numbers['verifier_failures']
  passes = [numbers[f'pass@{k}']['mean'] for k in (1, 2, 4)]
  assert passes == sorted(passes) and 0 <= passes[0] <= 1

  out = tmp_path / 'out'
  done = script('export').export_run(str(whole), None, str(out))
  assert (done['step'], done['model_type']) == (STEPS, 'qwen3')
  assert (out / 'tokenizer.json').exists()

  # Ended after two steps and started again, it meets the same problems.
  cut = tmp_path / 'cut'
  run(cut, data, steps=2)
  run(cut, data)
  plans = [{name: value for name, value in outcome(path, STEPS).items()
            if 'plan_state' in name} for path in (cut, whole)]
  assert plans[0] == plans[1] and len(plans[0]) == 2
  assert (cut / 'metrics.jsonl').read_bytes() == (
      whole / 'metrics.jsonl').read_bytes()
