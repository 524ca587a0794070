"""Trains many seeds of a config in one program, from one warm start.

  python experiments/seeds.py --config=configs/rules.py [--seeds=16] \
      [--map=map] [--out=FILE.json] [--readme=README.md]

No host between the steps: the task must be pure (`Environment.pure`). Prints
the reward of every seed, and the seconds; --out stores them, and --readme
writes them between two markers of a page.
"""

from __future__ import annotations

import json
import os
import pathlib
import resource
import sys
import time

from absl import app, flags, logging
import jax
from ml_collections import config_flags
import numpy as np

from policyopt import methods
from policyopt.training import errors, one_program

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Configs import each other as `configs.X`.
sys.path.insert(0, str(ROOT))
BEGIN, END = '<!-- seeds: begin -->', '<!-- seeds: end -->'

_CONFIG = config_flags.DEFINE_config_file(
    'config', 'configs/rules.py', 'A program with get_config(arg).')
_SEEDS = flags.DEFINE_integer('seeds', 16, 'How many.', lower_bound=2)
_MAP = flags.DEFINE_enum(
    'map', None, ('map', 'vmap'), 'One seed after the other (lax.map), or all '
    'at once (vmap); by default the first on a CPU.')
_OUT = flags.DEFINE_string('out', None, 'JSON file to write.')
_README = flags.DEFINE_string('readme', None, 'Page to write them into.')


def train(config, seeds: int, how: str) -> dict:
  """All seeds.

  Args:
    config: of the run.
    seeds: S.
    how: 'map' or 'vmap'.

  Returns:
    What --out stores.
  """
  program = one_program.make_program(config, methods.from_config(config))
  start = time.monotonic()
  params = jax.block_until_ready(
      jax.jit(program.init)(jax.random.key(config.seed)))
  warm = time.monotonic() - start

  def one(key):
    run = program.train(key, params)
    return (run.metrics['reward'], run.before.solved.mean(),
            run.after.solved.mean())

  many = {'map': lambda keys: jax.lax.map(one, keys), 'vmap': jax.vmap(one)}
  keys = jax.vmap(jax.random.key)(np.arange(seeds))
  start = time.monotonic()
  compiled = jax.jit(many[how]).lower(keys).compile()
  compiling = time.monotonic() - start
  start = time.monotonic()
  reward, before, after = map(
      np.asarray, jax.block_until_ready(compiled(keys)))
  running = time.monotonic() - start
  return dict(
      seeds=seeds, steps=config.steps, how=how,
      parameters=sum(x.size for x in jax.tree.leaves(params)),
      warm_start_s=round(warm, 1), compile_s=round(compiling, 1),
      run_s=round(running, 1), total_s=round(warm + compiling + running, 1),
      cores=os.cpu_count(), backend=jax.default_backend(),
      peak_gb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
                    2),
      pass1_before=before.tolist(), pass1_after=after.tolist(),
      reward=np.stack([part.mean(1) for part in np.array_split(
          reward, 10, axis=1)], axis=1).round(4).tolist())


def markdown(found: dict) -> str:
  """The paragraph for a page."""
  first, last = (np.array(found['reward'])[:, i] for i in (0, -1))
  after = np.array(found['pass1_after'])
  return (
      f'{found["seeds"]} seeds of {found["steps"]} GRPO steps, '
      f'{found["parameters"] / 1e6:.2f}M parameters, in one program '
      f'({found["how"]}): {found["total_s"]:.0f} s on {found["cores"]} cores '
      f'({found["backend"]}), of which {found["warm_start_s"]:.0f} s the warm '
      f'start that they share and {found["compile_s"]:.0f} s compiling. Reward '
      'of the first and the last tenth of the steps, mean [least, most] of the '
      f'seeds: {_range(first)} to {_range(last)}; the smallest gain of a seed '
      f'is {(last - first).min():+.2f}. Held-out pass@1 '
      f'{_range(np.array(found["pass1_before"]))} to {_range(after)}.\n')


def _range(x) -> str:
  return f'{x.mean():.2f} [{x.min():.2f}, {x.max():.2f}]'


def main(argv):
  del argv
  with errors.in_one_line():
    how = _MAP.value or ('map' if jax.default_backend() == 'cpu' else 'vmap')
    found = train(_CONFIG.value, _SEEDS.value, how)
    for seed, (reward, after) in enumerate(
        zip(found['reward'], found['pass1_after'])):
      curve = ' '.join(f'{x:.2f}' for x in reward)
      print(f'seed {seed:2}: reward {curve}, pass@1 {after:.3f}')
    print(markdown(found), end='')
    if _OUT.value:
      pathlib.Path(_OUT.value).write_text(json.dumps(found, indent=1) + '\n')
    if _README.value:
      page = pathlib.Path(_README.value)
      text = page.read_text('utf-8')
      head, _, rest = text.partition(BEGIN)
      tail = rest.partition(END)[2]
      page.write_text(
          f'{head}{BEGIN}\n{markdown(found)}{END}{tail}', 'utf-8')


if __name__ == '__main__':
  logging.set_verbosity(logging.WARNING)
  with errors.in_one_line():
    app.run(main, flags_parser=errors.parse_flags)
