"""What a run leaves on disk besides checkpoints and metrics.

Every file is written beside its place and renamed into it, so a kill at any
moment leaves the old one or the new one, never a torn one.
"""

from __future__ import annotations

from collections.abc import Callable
import importlib.metadata
import io
import json
import os
import platform
import sys
import time
from typing import Any

import jax
from ml_collections import ConfigDict
import numpy as np

from policyopt.models.partitioning import AXES
from policyopt.rollouts import hosts
from policyopt.training import evaluate as evaluation
from policyopt.training.curves import plot

# A resumed run may change these: they decide when it looks and where it runs,
# not what it does.
_FREE = ('steps', 'checkpoint_every', 'keep_checkpoints', 'log_prompts',
         'max_skipped', 'profile', 'ceilings', 'programs', 'evaluation.every',
         'task_kw.workers', 'evaluation.task_kw.workers', 'mesh.data',
         'mesh.fsdp', 'mesh.tensor', 'mesh.expert',
         *(f'rollout.mesh.{axis}' for axis in AXES))
_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy',
             'ml-collections', 'reasoning-gym')


def write_atomically(path: str, content: str | bytes) -> None:
  """Writes a whole file or nothing."""
  content = content.encode() if isinstance(content, str) else content
  temporary = f'{path}.tmp-{os.getpid()}'
  with open(temporary, 'wb') as file:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, path)


def save_run(config, workdir: str) -> None:
  """Writes config.json: the resolved config, versions and command line.

  Process 0 does, here and wherever files are written below.
  """
  if hosts.process():
    return
  run = dict(
      config=_plain(config), command=sys.argv, versions=versions(),
      processes=jax.process_count(),
      devices=[str(device) for device in jax.devices()])
  write_atomically(os.path.join(workdir, 'config.json'),
                   json.dumps(run, indent=2, default=str) + '\n')


def versions() -> dict[str, str]:
  """The versions of Python and of the packages that numbers depend on."""
  found = {'python': platform.python_version()}
  for package in _PACKAGES:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      pass
  return found


def check_same_run(config, workdir: str) -> None:
  """Refuses to resume a run with a config that is not its own.

  Raises:
    ValueError: naming the first key that differs, and both values.
  """
  path = os.path.join(workdir, 'config.json')
  if not os.path.exists(path):
    return
  with open(path) as file:
    old = _flat(json.load(file)['config'])
  new = _flat(_plain(config))
  for name in sorted(old.keys() | new.keys()):
    if name not in _FREE and old.get(name) != new.get(name):
      raise ValueError(
          f'workdir {workdir!r} holds a run with {name} = {old.get(name)!r}, '
          f'but the config says {new.get(name)!r}: use the same config to '
          'resume it, or another workdir to start anew')


def load_config(workdir: str):
  """The config of a run, as it was resolved when the run began.

  Without its `programs`, a folder of the machine that trained.

  Raises:
    ValueError: when the folder holds no run.
  """
  path = os.path.join(workdir, 'config.json')
  if not os.path.exists(path):
    raise ValueError(
        f'workdir {workdir!r} holds no run: {path} does not exist')
  with open(path) as file:
    return ConfigDict(json.load(file)['config'] | {'programs': None})


class Clock:
  """Seconds and tokens of a run, kept across its restarts.

  Attributes:
    checkpoint: newest step of reinforcement learning that was checkpointed.
  """

  def __init__(self, workdir: str):
    self._path = os.path.join(workdir, 'clock.json')
    self._seconds, self._tokens, self._training = 0., 0, 0.
    self.checkpoint = 0
    if os.path.exists(self._path):
      with open(self._path) as file:
        saved = json.load(file)
      self._seconds, self._tokens = saved['seconds'], saved['tokens']
      self._training = saved['training_seconds']
      self.checkpoint = saved.get('checkpoint', 0)
    self._start = self._last = time.monotonic()

  def seconds(self) -> float:
    """Wall-clock seconds that the run has taken so far."""
    return self._seconds + time.monotonic() - self._start

  def train_step(self, tokens: int) -> None:
    """Counts the tokens of a step, and the time since `lap`, as training."""
    self._tokens += tokens
    self._training += self.lap()

  def lap(self) -> float:
    """Seconds since the last lap; what lies outside steps is not training."""
    now = time.monotonic()
    seconds, self._last = now - self._last, now
    return seconds

  def tokens_per_second(self) -> float:
    """Prompt and response tokens per second of reinforcement learning."""
    return self._tokens / self._training if self._training else 0.

  def save(self) -> None:
    """Keeps the clock for a restart."""
    if hosts.process():
      return
    write_atomically(self._path, json.dumps(dict(
        seconds=self.seconds(), tokens=self._tokens,
        training_seconds=self._training, checkpoint=self.checkpoint)))


def once(workdir: str, name: str, make: Callable[[], evaluation.Evaluation],
         clock: Clock) -> evaluation.Evaluation:
  """An evaluation, made at most once in the life of a run. Collective."""
  folder = os.path.join(workdir, 'evaluations')
  path = os.path.join(folder, f'{name}.npz')
  if hosts.process() == 0:
    os.makedirs(folder, exist_ok=True)
  if hosts.first_process(os.path.exists(path)):
    with np.load(path) as arrays:
      return evaluation.Evaluation(**arrays)
  result = make()
  if hosts.process() == 0:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **result._asdict())
    write_atomically(path, buffer.getvalue())
    clock.save()
  return result


def sample_rows(tokenizer, rollout, samples: int, prompts: int) -> list[dict]:
  """The first prompts of a batch with all their responses, as text.

  Collective; only process 0 gets them.

  Args:
    tokenizer: decodes.
    rollout: rows of a prompt side by side.
    samples: rows per prompt.
    prompts: how many prompts.

  Returns:
    One record per prompt: problem id, prompt, responses with their reward.
  """
  rows = []
  count = prompts * samples
  part = hosts.fetch(
      dict(tokens=rollout.tokens, mask=rollout.mask, rewards=rollout.rewards,
           problem=rollout.extras['prompt'],
           length=rollout.extras['length']), count)
  if hosts.process():
    return rows
  reward = sum(x.sum(1) for x in part['rewards'].values())
  for first in range(0, count, samples):
    group = slice(first, first + samples)
    # A row that was not scored has an empty mask: any other row will do.
    start = int(np.argmax(part['mask'][group].any(0)))
    rows.append(dict(
        problem=int(part['problem'][first]),
        prompt=tokenizer.decode(part['tokens'][first, :start].tolist()),
        responses=[
            dict(text=tokenizer.decode(_response(tokens, mask).tolist()),
                 reward=float(value))
            for tokens, mask, value in zip(
                part['tokens'][group], part['mask'][group], reward[group])]))
  return rows


def _response(tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """From the first to the last chosen token, what was read between them too."""
  chosen = np.flatnonzero(mask)
  return tokens[chosen[0]:chosen[-1] + 1] if len(chosen) else tokens[:0]


def finish(config, workdir: str, before: evaluation.Evaluation,
           after: evaluation.Evaluation, clock: Clock) -> dict[str, Any]:
  """Writes result.json and curve.png, prints the table, returns the result.

  Collective.
  """
  samples = before.solved.shape[1]
  scores = dict(before=evaluation.summary(before),
                after=evaluation.summary(after))
  gains = {f'pass@{k}': evaluation.gain(before, after, k)
           for k in sorted({1, samples})}
  clock.save()
  result = dict(
      pass1_before=scores['before']['pass@1']['mean'],
      pass1_after=scores['after']['pass@1']['mean'],
      ci=[gains['pass@1']['low'], gains['pass@1']['high']],
      seconds=round(clock.seconds(), 1),
      tokens_per_second=round(clock.tokens_per_second(), 1),
      workdir=workdir)
  if hosts.process():
    return result
  write_atomically(
      os.path.join(workdir, 'result.json'),
      json.dumps(dict(result, **scores, gain=gains), indent=2) + '\n')
  plot([workdir], os.path.join(workdir, 'curve.png'))
  print(table({'before': scores['before'],
               f'after {config.method}': scores['after'], 'gain': gains}))
  return result


def table(columns: dict[str, dict[str, Any]]) -> str:
  """Scores side by side as text, each a mean with its 95% interval.

  Args:
    columns: heading -> what `evaluate.summary` returns, or gains, which are
      shown with their sign where the heading is 'gain'.

  Returns:
    A line of what was measured, a heading, and a line for each score.
  """
  first = next(iter(columns.values()))
  names = [name for name, value in first.items() if isinstance(value, dict)]
  lines = [f'{first["problems"]} held-out problems, {first["samples"]} samples '
           'each: mean [95% interval]',
           f'{"":<8}' + ''.join(f'{heading:>26}' for heading in columns)]
  for name in names:
    cells = [
        _cell(scores[name], '+' if heading == 'gain' else '')
        if name in scores else '' for heading, scores in columns.items()]
    lines.append(f'{name:<8}' + ''.join(f'{cell:>26}' for cell in cells))
  return '\n'.join(line.rstrip() for line in lines)


def _cell(interval, sign: str = '') -> str:
  return (f'{interval["mean"]:{sign}.3f} '
          f'[{interval["low"]:{sign}.3f}, {interval["high"]:{sign}.3f}]')


def _plain(config):
  """A ConfigDict as what JSON gives back: dicts, lists, numbers, strings."""
  return json.loads(json.dumps(config.to_dict(), default=str))


def _flat(tree, prefix: str = '') -> dict[str, Any]:
  flat = {}
  for name, value in tree.items():
    if isinstance(value, dict):
      flat |= _flat(value, f'{prefix}{name}.')
    else:
      flat[prefix + name] = value
  return flat
