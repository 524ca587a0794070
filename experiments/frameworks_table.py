"""Writes FRAMEWORKS.md: what each framework does by default, side by side.

The choices come from policyopt/methods/frameworks.py, what they mean from the
docstring of `Dialect`, and the gradient norms from running every preset on one
batch of random numbers.

  python experiments/frameworks_table.py [--check]
"""

from __future__ import annotations

import pathlib
import re
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from policyopt import methods  # noqa: E402
from policyopt.methods import Dialect  # noqa: E402
from policyopt.training.credit import assign_credit, init_credit  # noqa: E402
from policyopt.types import PolicyOutput, Rollout  # noqa: E402

SEED = 0
PROMPTS, SAMPLES, TOKENS = 8, 4, 32
ALGORITHMS = {'grpo': 'GRPO', 'rloo': 'RLOO', 'ppo': 'PPO'}
NAMES = {'verl': 'verl', 'trl': 'TRL', 'tunix': 'Tunix', 'nemo': 'NeMo RL',
         'openrlhf': 'OpenRLHF', 'prime-rl': 'prime-rl',
         'open-instruct': 'open-instruct'}
TOLD = ('source', 'remarks')
IDLE = '–'

HEAD = """# Frameworks

Made by `python experiments/frameworks_table.py` from the presets in
`policyopt/methods/frameworks.py`: what each framework does for GRPO, RLOO and
PPO when nothing is configured, in the version that is named at the end. A
column is `methods.in_framework(framework, algorithm)`; a row is a field of
`Dialect`, which the same call takes as a keyword, and rows in which all columns
agree are in the sentence below a table. `–` is a choice that nothing asks for,
and (in brackets) a value that waits for another one: for `beta` above 0, say.
`tests/methods/test_frameworks_golden.py` and `test_frameworks_terms.py` run the
presets against numbers that the frameworks' own code computed.
"""


def main() -> None:
  """Writes the page, or with --check says whether it is up to date."""
  path, text = ROOT / 'FRAMEWORKS.md', page()
  if '--check' in sys.argv[1:]:
    old = path.read_text('utf-8') if path.exists() else ''
    sys.exit(None if old == text else f'{path.name} is out of date: run '
             'python experiments/frameworks_table.py')
  path.write_text(text, 'utf-8')


def page() -> str:
  """The whole page.

  Returns:
    Markdown.
  """
  return '\n'.join([
      HEAD, *(_algorithm(name) for name in ALGORITHMS), _example(), _meaning(),
      _sources()])


def _columns(algorithm: str) -> list[str]:
  return [f for f in methods.frameworks() if algorithm in methods.algorithms(f)]


def _table(head: list[str], rows: list[list[str]]) -> str:
  lines = [head, ['---'] * len(head), *rows]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines) + '\n'


def _algorithm(algorithm: str) -> str:
  """The section of an algorithm: where the frameworks differ, and where not."""
  columns = _columns(algorithm)
  rows, agreed = [], []
  for field in Dialect._fields:
    if field in TOLD:
      continue
    cells = [_cell(methods.dialect(f, algorithm), field) for f in columns]
    # What nobody asks for and what somebody has none of is no difference.
    if not set(cells) - {IDLE, 'none'}:
      continue
    if len(set(cells)) > 1:
      rows.append([f'`{field}`', *cells])
    else:
      agreed.append(f'`{field}` {cells[0]}')
  table = _table(['', *(NAMES[f] for f in columns)], rows)
  return f'## {ALGORITHMS[algorithm]}\n\n{table}\n' + _wrapped(
      f'All have {_listed(agreed)}.')


def _wrapped(text: str) -> str:
  return textwrap.fill(
      text, 80, break_long_words=False, break_on_hyphens=False) + '\n'


def _listed(words: list[str]) -> str:
  return f'{", ".join(words[:-1])} and {words[-1]}'


def _cell(d: Dialect, field: str) -> str:
  """The value of a field, or what stands for one without effect."""
  value = getattr(d, field)
  text = 'none' if value is None else (
      f'{value:g}' if isinstance(value, float) else str(value))
  for needed, fields, shown in _conditions(d):
    if field in fields and not needed:
      return f'({text})' if shown and value is not None else IDLE
  return text


def _conditions(d: Dialect) -> list[tuple[bool, tuple[str, ...], bool]]:
  """(what must hold, fields that it gives an effect, shown without it)."""
  in_loss = d.kl_place == 'loss'
  return [
      (d.std != 'none', ('eps',), False),
      (d.baseline != 'critic', ('std', 'singleton'), False),
      (d.baseline == 'critic', (
          'gamma', 'lam', 'observations', 'value_coef', 'value_clip'), False),
      (in_loss, ('kl_gradient', 'kl_ratio'), False),
      (d.kl == 'k3', ('k3_input_limit', 'k3_output_limit'), False),
      (d.beta > 0, (
          'kl', 'kl_place', 'kl_gradient', 'kl_ratio', 'kl_input_limit',
          'kl_output_limit', 'k3_input_limit', 'k3_output_limit'), True),
      (d.importance is not None, (
          'importance_bound', 'importance_cap', 'importance_floor',
          'importance_limit', 'importance_judge'), False),
      (d.whiten != 'none', ('whiten_eps', 'whiten_guard'), False),
      (d.reward_clip is not None, ('reward_clip_place',), False),
      (d.aggregation == 'constant_length', ('max_tokens',), False),
      (d.aggregation.startswith(('sequence', 'constant')),
       ('empty_rows',), True),
      (d.trust_region == 'probability', ('drift_penalty',), False),
      (d.trust_region == 'ratio', ('dual_clip',), False),
  ]


# One batch -------------------------------------------------------------------


def batch(seed: int = SEED) -> tuple[Rollout, PolicyOutput]:
  """Random responses, half right, from a sampler and a policy near it.

  Args:
    seed: of everything.

  Returns:
    (Rollout, PolicyOutput) of float64 arrays.
  """
  rng = np.random.default_rng(seed)
  rows = PROMPTS * SAMPLES
  length = rng.integers(8, TOKENS, rows)
  column = np.arange(TOKENS)[None]
  mask = (column > 0) & (column < length[:, None])
  mask &= ~((rng.random(rows) < .25)[:, None] & (column > 3) & (column < 7))
  group = np.arange(rows) // SAMPLES
  right = rng.random(rows) < rng.random(PROMPTS)[group]
  right[group == 0] = True  # One prompt is solved by all.

  def near(x, distance):
    return np.where(mask, x + distance * rng.normal(size=mask.shape), 0)

  old = np.where(mask, -rng.exponential(1., mask.shape), 0)
  rewards = np.where(column == length[:, None] - 1, right[:, None], 0.)
  values = near(.5 * mask, .2)
  rollout = Rollout(
      tokens=jnp.zeros(mask.shape, jnp.int32), mask=jnp.asarray(mask),
      log_probs=jnp.asarray(near(old, .05)),
      group=jnp.asarray(group, jnp.int32),
      rewards={'accuracy': jnp.asarray(rewards)},
      extras={'old_log_probs': jnp.asarray(old),
              'ref_log_probs': jnp.asarray(near(old, .3)),
              'values': jnp.asarray(values)})
  return rollout, PolicyOutput(
      log_probs=jnp.asarray(near(old, .15)), values=jnp.asarray(values))


def gradient(framework: str, algorithm: str) -> np.ndarray:
  """Of a preset's loss on that batch, by the policy's log-probabilities.

  Args:
    framework: as in `methods.in_framework`.
    algorithm: likewise.

  Returns:
    f64[B, T].
  """
  method = methods.in_framework(framework, algorithm)
  with jax.enable_x64(True):
    rollout, policy = batch()

    def slope(rollout, policy):
      (rollout, advantages, weights), _ = assign_credit(
          method, init_credit(method), rollout)
      return jax.grad(lambda x: method.loss.apply(
          policy._replace(log_probs=x), advantages, weights, rollout)[0])(
              policy.log_probs)

    # Compiled once and run once.
    run = jax.jit(slope, compiler_options={
        'xla_backend_optimization_level': 0})
    return np.asarray(run(rollout, policy))


def _example() -> str:
  """How far apart the presets are on one batch."""
  rows, told = [], []
  for algorithm, title in ALGORITHMS.items():
    columns = _columns(algorithm)
    slopes = {f: gradient(f, algorithm) for f in columns}
    norms = {f: np.linalg.norm(slopes[f]) for f in columns}
    least, most = min(norms, key=norms.get), max(norms, key=norms.get)
    told.append(
        f'{norms[most] / norms[least]:.1f} for {title} ({NAMES[most]} over '
        f'{NAMES[least]})')
    for f in columns:
      cosine = np.sum(slopes[f] * slopes['verl']) / (norms[f] * norms['verl'])
      rows.append([title, NAMES[f], f'{norms[f]:.3g}', f'{cosine:.3f}'])
  text = (
      f'On one batch of random numbers ({PROMPTS} prompts, {SAMPLES} responses '
      f'each of up to {TOKENS - 1} tokens, rewards 0 or 1, seed {SEED}; the '
      'policy has moved by about 0.15 nats per token since it sampled, the '
      'sampler is 0.05 and the reference 0.3 away) the norms of the gradient '
      'by the log-probabilities of the policy lie apart by factors of '
      f'{_listed(told)}. A learning rate, or a clip of the gradient norm, '
      'does not carry over from one to the other; the cosine says how much of '
      'the difference is one of direction.')
  head = ['algorithm', 'framework', 'gradient norm', "cosine with verl's"]
  return f'## What that comes to\n\n{_wrapped(text)}\n{_table(head, rows)}'


# What the rows mean, and where they are from ----------------------------------


def _meaning() -> str:
  found = re.findall(
      r'^    (\w+): (.*?)(?=^    \w|\Z|^  \w)',
      Dialect.__doc__.partition('Attributes:')[2], re.M | re.S)
  rows = [[f'`{field}`', ' '.join(text.split()).replace('|', r'\|')]
          for field, text in found if field not in TOLD]
  return f'## What the rows mean\n\n{_table(["field", "meaning"], rows)}'


def _sources() -> str:
  rows = []
  for framework in methods.frameworks():
    for algorithm in methods.algorithms(framework):
      d = methods.dialect(framework, algorithm)
      rows.append([NAMES[framework], ALGORITHMS[algorithm], f'`{d.source}`',
                   d.remarks or IDLE])
  head = ['framework', 'algorithm', 'defaults from', 'remarks']
  return f'## Where the columns are from\n\n{_table(head, rows)}'


if __name__ == '__main__':
  main()
