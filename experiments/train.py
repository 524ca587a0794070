"""Trains a policy: warm start, reinforcement learning, evaluation.

  python experiments/train.py --config=configs/grpo.py --workdir=runs/grpo \
      [--config.steps=50] [--config.method=rloo]

The same command starts a run and resumes it. The working directory holds
config.json, checkpoints, metrics.jsonl, timing.jsonl, samples.jsonl,
TensorBoard events, curve.png and result.json. The last line printed is
result.json in short, as one JSON object.

On a TPU slice or under SLURM every host runs this same command, with a working
directory that all of them share; elsewhere each is told of the others by
--coordinator, --num_processes and --process_id. See experiments/launch.

SIGTERM to any process: all save after the step at hand and exit with code 75,
on which the same command is to be started again. Code 76: another process was
lost. A second SIGTERM ends a process at once.
"""

from policyopt import large_pages

if __name__ == '__main__':
  large_pages.restart()

import json
import pathlib
import sys

from absl import app, flags, logging
import jax
from ml_collections import config_flags

from policyopt import methods
from policyopt.training import distributed, errors, loop

# Configs import each other as `configs.X`.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'A program with get_config(arg), as in configs/.')
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder of the run; made, or resumed when it holds one.')
_COORDINATOR = flags.DEFINE_string(
    'coordinator', None, 'HOST:PORT of process 0, where no cluster tells it.')
_NUM_PROCESSES = flags.DEFINE_integer(
    'num_processes', None, 'How many processes run this command.')
_PROCESS_ID = flags.DEFINE_integer(
    'process_id', None, 'Which of them this is, from 0.')
_JOIN_TIMEOUT = flags.DEFINE_integer(
    'join_timeout', 300, 'Seconds until all processes must be there.')


def main(argv):
  with errors.in_one_line():
    if len(argv) > 1:
      raise ValueError(f'unexpected argument {argv[1]!r}; flags begin with --')
    place = distributed.find(
        _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    with distributed.session(place, _JOIN_TIMEOUT.value), errors.in_one_line():
      config = _CONFIG.value
      method = methods.from_config(config)
      result = loop.train(config, method, _WORKDIR.value)
      if jax.process_index() == 0:
        print(json.dumps(result), flush=True)


if __name__ == '__main__':
  logging.set_verbosity(logging.WARNING)  # Orbax tells each of its steps.
  flags.mark_flags_as_required(['config', 'workdir'])
  with errors.in_one_line():
    app.run(main, flags_parser=errors.parse_flags)
