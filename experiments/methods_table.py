"""Trains every method on the demo task with several seeds; makes the table.

  python experiments/methods_table.py --workdir=runs/methods [--seeds=3] \
      [--methods=grpo,ppo] [--config=configs/demo.py]

The methods share the warm start of a seed, so they begin from the same policy
(all models have a value head, which only PPO trains). Runs that are already
there are resumed. Writes experiments/results/methods.json, and the table into
README.md between its two markers.
"""

import json
import math
import os
import pathlib
import shutil
import sys

from absl import app, flags, logging
import jax
from ml_collections import config_flags
import numpy as np

from policyopt import methods
from policyopt.training import errors, loop, record

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Configs import each other as `configs.X`.
sys.path.insert(0, str(ROOT))
ALL = 'reinforce,rloo,grpo,dr_grpo,dapo,gspo,ppo'
_BEGIN, _END = '<!-- methods: begin -->', '<!-- methods: end -->'
# 97.5% points of Student's t for 1 ... 9 degrees of freedom.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)

_CONFIG = config_flags.DEFINE_config_file(
    'config', 'configs/demo.py', 'What every run starts from.')
_WORKDIR = flags.DEFINE_string('workdir', 'runs/methods', 'Folder of the runs.')
_METHODS = flags.DEFINE_list('methods', ALL, 'Names of recipes.')
_SEEDS = flags.DEFINE_integer('seeds', 3, 'Runs of each method, 2 to 10.')
_README = flags.DEFINE_string('readme', str(ROOT / 'README.md'), 'Holds it.')
_RESULTS = flags.DEFINE_string(
    'results', str(ROOT / 'experiments' / 'results' / 'methods.json'), 'JSON.')


def run(config, name: str, seed: int, folder: str) -> dict:
  """One run, from the warm start of its seed; returns its result.json."""
  config = config.copy_and_resolve_references()
  config.method, config.seed = name, seed
  config.model.value_head = True
  workdir = os.path.join(folder, f'{name}-{seed}')
  shared = os.path.join(folder, f'warm-start-{seed}')
  if os.path.exists(shared) and not os.path.exists(workdir):
    os.makedirs(workdir)
    for part in ('warm_start', 'evaluations'):
      shutil.copytree(os.path.join(shared, part), os.path.join(workdir, part))
  loop.train(config, methods.from_config(config), workdir)
  if not os.path.exists(shared):
    _share_warm_start(workdir, shared)
  with open(os.path.join(workdir, 'result.json')) as file:
    result = json.load(file)
  del result['workdir']  # Says where, not what.
  return result


def _share_warm_start(workdir: str, shared: str) -> None:
  """Keeps what does not depend on the method for the other methods."""
  unfinished = shared + '.tmp'
  shutil.rmtree(unfinished, ignore_errors=True)
  shutil.copytree(os.path.join(workdir, 'warm_start'),
                  os.path.join(unfinished, 'warm_start'))
  os.makedirs(os.path.join(unfinished, 'evaluations'))
  shutil.copy(os.path.join(workdir, 'evaluations', 'step-0.npz'),
              os.path.join(unfinished, 'evaluations'))
  os.replace(unfinished, shared)


def interval(values) -> tuple[float, float]:
  """Mean over seeds, and half the width of its 95% Student interval."""
  values = np.asarray(values, float)
  half = _STUDENT[len(values) - 2] * values.std(ddof=1) / math.sqrt(len(values))
  return float(values.mean()), float(half)


def markdown(results: dict[str, list[dict]], config) -> str:
  """The table: a method per row, means over seeds with 95% intervals."""
  seeds = len(next(iter(results.values())))
  last = config.evaluation.samples
  lines = [
      f'`{config.task}`, {config.steps} steps of {config.prompts} x '
      f'{config.samples} responses, {seeds} seeds, '
      f'{config.evaluation.problems} held-out problems; mean ± 95% interval '
      'over seeds (Student).', '',
      f'| method | pass@1 before | pass@1 after | gain | pass@{last} after |',
      '| --- | --- | --- | --- | --- |']
  for name, runs in results.items():
    cells = [
        interval([r['pass1_before'] for r in runs]),
        interval([r['pass1_after'] for r in runs]),
        interval([r['pass1_after'] - r['pass1_before'] for r in runs]),
        interval([r['after'][f'pass@{last}']['mean'] for r in runs])]
    lines.append(f'| {name} | ' + ' | '.join(
        f'{mean:.3f} ± {half:.3f}' for mean, half in cells) + ' |')
  return '\n'.join(lines)


def insert(readme: str, table: str) -> None:
  """Puts the table between the two markers of a text file."""
  with open(readme) as file:
    text = file.read()
  if _BEGIN not in text or _END not in text:
    raise ValueError(f'{readme} lacks the markers {_BEGIN} and {_END}')
  head, rest = text.split(_BEGIN)
  tail = rest.split(_END)[1]
  record.write_atomically(
      readme, f'{head}{_BEGIN}\n{table}\n{_END}{tail}')


def _command() -> str:
  """The command line without the folders, which change nothing."""
  places = ('--workdir', '--readme', '--results')
  words = [word for word in sys.argv[1:] if not word.startswith(places)]
  return ' '.join(['python experiments/methods_table.py', *words])


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unexpected argument {argv[1]!r}')
  config, folder = _CONFIG.value, _WORKDIR.value
  with errors.in_one_line():
    if not 2 <= _SEEDS.value <= len(_STUDENT) + 1:
      raise ValueError(f'seeds is {_SEEDS.value}; it must be in [2, 10]')
    # The seeds of a method share their programs.
    jax.config.update('jax_compilation_cache_dir',
                      os.path.join(folder, 'compiled'))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)
    results = {name: [run(config, name, seed, folder)
                      for seed in range(_SEEDS.value)]
               for name in _METHODS.value}
    table = markdown(results, config)
    os.makedirs(os.path.dirname(_RESULTS.value), exist_ok=True)
    record.write_atomically(_RESULTS.value, json.dumps(dict(
        command=_command(), versions=record.versions(), runs=results),
        indent=1) + '\n')
    insert(_README.value, table)
  print(table)


if __name__ == '__main__':
  logging.set_verbosity(logging.WARNING)
  with errors.in_one_line():
    app.run(main, flags_parser=errors.parse_flags)
