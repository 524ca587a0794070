"""Trains a policy: warm start, reinforcement learning, evaluation.

  python experiments/train.py --config=configs/grpo.py --workdir=runs/grpo \
      [--config.steps=50] [--config.method=rloo]

The same command starts a run and resumes it. The working directory holds
config.json, checkpoints, metrics.jsonl, timing.jsonl, samples.jsonl,
TensorBoard events, curve.png and result.json. The last line printed is
result.json in short, as one JSON object.
"""

import json
import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from policyopt import methods
from policyopt.training import errors, loop

# Configs import each other as `configs.X`.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'A program with get_config(arg), as in configs/.')
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder of the run; made, or resumed when it holds one.')


def main(argv):
  with errors.in_one_line():
    if len(argv) > 1:
      raise ValueError(f'unexpected argument {argv[1]!r}; flags begin with --')
    config = _CONFIG.value
    method = methods.from_config(config)
    result = loop.train(config, method, _WORKDIR.value)
  print(json.dumps(result))


if __name__ == '__main__':
  logging.set_verbosity(logging.WARNING)  # Orbax tells each of its steps.
  flags.mark_flags_as_required(['config', 'workdir'])
  with errors.in_one_line():
    app.run(main, flags_parser=errors.parse_flags)
