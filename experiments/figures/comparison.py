"""All methods on three common tasks, against samples and against time.

    python experiments/figures/comparison.py [--fast]

Every recipe with its published settings, from the same warm start, with the
same seeds and the same learning rate, on three tasks: `rules` (choosing between
skills), `families` (success rates of every size) and `modes` (many right
answers). Reward and pass@k are drawn against responses sampled and against
seconds. Nothing here ranks methods in general: the tasks are tiny, and no
method is tuned.
"""

from __future__ import annotations

import pathlib
import sys
import time

if __name__ == '__main__':
  sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import jax
import jax.numpy as jnp
import numpy as np

from experiments.figures import beds, drawing, figure, runs, verdict
from policyopt import methods
from policyopt.envs.synthetic import families, modes, rules
from policyopt.training import one_program

METHODS = tuple(methods.names())
# It compares, and judges nothing.
CLAIMS = ()
TASKS = {
    'rules': (rules.ALPHABET, dict(digits=3)),
    'families': (families.ALPHABET, dict(digits=3)),
    'modes': (modes.ALPHABET, {})}
_STEPS, _EVERY, _RATE = 80, 16, 1e-3
# Where one run is kept until all are there.
_KEPT = pathlib.Path('runs/comparison')


def run(fast: bool = False) -> dict:
  """Every method on every task.

  Args:
    fast: two methods, one task, two seeds, a few steps.

  Returns:
    task -> method -> 'reward' [S, 20], 'pass1' and 'pass8' [S, points],
    'seconds' [1], of a step of one seed on one core.
  """
  tasks = ('rules',) if fast else TASKS
  names = ('grpo', 'rloo') if fast else METHODS
  return {task: _task(task, names, fast) for task in tasks}


def _task(task, names, fast):
  alphabet, task_kw = TASKS[task]
  steps, every = (8, 4) if fast else (_STEPS, _EVERY)
  config = runs.config(
      task, alphabet, max_tokens=4, steps=steps, warm_steps=20 if fast else 120,
      layers=1, learning_rate=_RATE, **task_kw)
  # So that all begin with the same parameters.
  config.model.value_head = True
  config.evaluation.every = every
  params, found = None, {}
  for name in names:
    kept = _KEPT / f'{task}-{name}.npz'
    if not fast and kept.exists():
      with np.load(kept) as file:
        found[name] = dict(file)
      continue
    config.method = name
    program = one_program.make_program(config, methods.from_config(config))
    if params is None:
      params = jax.jit(program.init)(jax.random.key(config.seed))
    found[name] = _method(program, params, 2 if fast else runs.SEEDS)
    print(f'{task} {name}: pass@1 {found[name]["pass1"][:, 0].mean():.3f} to '
          f'{found[name]["pass1"][:, -1].mean():.3f}', flush=True)
    if not fast:
      _KEPT.mkdir(parents=True, exist_ok=True)
      np.savez(kept, **found[name])
  return found


def _method(program, params, seeds):
  """Records of one method: all seeds at once, timed without compiling.

  Timed by the processor's clock, which other work on the machine leaves alone.
  """
  def one(key):
    made = program.train(key, params)
    solved = jnp.concatenate([made.before.solved[None], made.curve.solved])
    return made.metrics['reward'], solved

  many = jax.jit(jax.vmap(one)).lower(beds.seeds(seeds)).compile()
  start = time.process_time()
  reward, solved = jax.block_until_ready(many(beds.seeds(seeds)))
  seconds = time.process_time() - start
  solved, reward = np.asarray(solved), np.asarray(reward)
  thin = np.stack([part.mean(1) for part in np.array_split(
      reward, min(20, reward.shape[1]), axis=1)], axis=1)
  return dict(reward=thin.astype(np.float32),
              pass1=solved.mean((2, 3)).astype(np.float32),
              pass8=solved.any(3).mean(2).astype(np.float32),
              seconds=np.array([seconds / seeds / reward.shape[1]]))


# Drawn in colour; the others are grey lines, named in the lowest panels.
_SHOWN = ('reinforce', 'rloo', 'ppo', 'grpo', 'dapo', 'gspo', 'dpo')
_ROWS = 128  # Responses a step.


def plot(records: dict):
  """Curves of every task, then the end of every method."""
  made, upper, axes, ends = _panels(len(records))
  for line, (task, arms) in zip(axes, records.items()):
    steps = _steps(arms)
    for axis, (key, label, seconds) in zip(line, (
        ('reward', 'reward', False), ('pass8', 'pass@8', False),
        ('reward', 'reward', True), ('pass8', 'pass@8', True))):
      _curves(axis, arms, key, seconds, steps)
      drawing.dress(
          axis, task, 'seconds of a seed on one core' if seconds
          else 'responses sampled', label)
  for axis, (task, arms) in zip(ends, records.items()):
    _ends(axis, arms)
    drawing.dress(
        axis, f'{task}, at the end', 'pass@1 (dot), pass@8 (ring)', '')
  drawing.legend(upper, axes[0][0], columns=8)
  return made


def table(records: dict) -> str:
  """Success at the end and time of every method on every task."""
  lines = []
  for task, arms in records.items():
    lines.append(f'{task:23} pass@1             pass@8             '
                 'seconds of a seed')
    for name in _ranking(arms):
      arm = arms[name]
      ends = [verdict.interval(arm[key][:, -1]) for key in ('pass1', 'pass8')]
      cells = '  '.join(
          f'{mean:.3f} [{low:.3f}, {high:.3f}]' for mean, low, high in ends)
      lines.append(f'  {name:21} {cells} '
                   f'{arm["seconds"][0] * _steps(arms):6.1f}')
  return '\n'.join(lines)


def cost(records: dict) -> float:
  """Seconds of training, which may have been done in several goes."""
  return sum(
      float(arm['seconds'][0]) * _steps(arms) * len(arm['reward'])
      for arms in records.values() for arm in arms.values())


def _panels(tasks):
  """(Upper part of a figure, four axes a task in it, an axis a task below)."""
  made, _ = drawing.panels(1, width=13., height=2.4 * tasks + 8.5)
  made.clear()
  upper, lower = made.subfigures(2, 1, height_ratios=[2.4 * tasks + .6, 8.5])
  axes = upper.subplots(tasks, 4, squeeze=False)
  return made, upper, axes, lower.subplots(1, tasks, squeeze=False)[0]


def _steps(arms):
  """Steps of a run, of the whole measurement or of the fast one."""
  points = next(iter(arms.values()))['pass1'].shape[1] - 1
  return points * (_EVERY if points == _STEPS // _EVERY else 4)


def _curves(axis, arms, key, seconds, steps):
  """Means; of those that are shown in colour with their 95% intervals."""
  for name, arm in arms.items():
    values = arm[key]
    x = np.linspace(0, steps, values.shape[1]) * _ROWS
    if seconds:
      x = x / _ROWS * arm['seconds'][0]
    if name in _SHOWN:
      drawing.curves(axis, {name: values}, x=x,
                     first=_SHOWN.index(name))
    else:
      axis.plot(x, values.mean(0), color='0.8', linewidth=0.7, zorder=0)


def _ends(axis, arms):
  """The last evaluation of every method, the best pass@1 on top."""
  names = _ranking(arms)
  for place, name in enumerate(names):
    for key, filled in ('pass1', True), ('pass8', False):
      mean, low, high = verdict.interval(arms[name][key][:, -1])
      color = drawing.COLORS[0] if filled else drawing.COLORS[1]
      axis.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt='o',
                    markersize=3, color=color, capsize=1.5, linewidth=0.8,
                    markerfacecolor=color if filled else 'white')
  axis.set_yticks(range(len(names)), names)
  axis.set_ylim(len(names) - 0.3, -0.7)


def _ranking(arms):
  return sorted(arms, key=lambda name: -arms[name]['pass1'][:, -1].mean())


if __name__ == '__main__':
  figure.main(__name__)
