"""Times the sampler in slots against the sampler of all rows at once.

  python experiments/bench/rollouts.py [--slots=32] [--prompts=32] \
      [--samples=8] [--limit=128] [--rounds=5] [--out=rollouts.json] [--page=P]

A decoder of 4.56 million parameters with random weights draws 256 responses
to 32 prompts. How long each is, is forced by `max_tokens`, so the same lengths
are decoded three ways, one after another in one process: in slots that are
refilled; all rows at once; and in batches of as many rows as there are slots,
each of which lasts as long as its longest row. Every round draws lengths anew:
how much there is to gain differs from draw to draw. Ratios are medians over
rounds of the time of the other divided by that of the slots.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
if __name__ == '__main__':
  # As `experiments.bench.X`, and not by their names in this folder.
  sys.path[0] = str(ROOT)

from experiments.bench import report  # noqa: E402
from experiments.bench.kernels import machine  # noqa: E402
from policyopt.models import transformer  # noqa: E402
from policyopt.models.config import ModelConfig  # noqa: E402
from policyopt.rollouts.sampler import SamplerConfig, sample  # noqa: E402
from policyopt.types import Prompts  # noqa: E402

# Of those that performance is measured with everywhere: 4.56 million.
MODEL = ModelConfig(
    vocab_size=512, width=256, num_layers=6, num_heads=8, num_kv_heads=4,
    head_dim=32, mlp_width=704, max_length=2048, qk_norm=True)
SIDES = ('slots', 'at once', 'batches')


def lengths(rows: int, limit: int, seed: int = 0) -> dict[str, np.ndarray]:
  """Response lengths, i32[rows] from 1 to `limit`, by the name of their law.

  Args:
    rows: how many.
    limit: the longest there may be.
    seed: of all of them.

  Returns:
    name -> lengths.
  """
  rng = np.random.default_rng(seed)
  drawn = {
      'lognormal': rng.lognormal(np.log(limit / 7), 1.2, rows),
      'geometric': rng.geometric(5.8 / limit, rows),
      '85% short': np.where(
          rng.uniform(size=rows) < 0.85,
          rng.integers(1, limit // 4 + 1, rows), limit),
      'uniform': rng.integers(1, limit + 1, rows),
      'all equal': np.full(rows, limit)}
  return {name: np.clip(np.round(x), 1, limit).astype(np.int32)
          for name, x in drawn.items()}


def in_batches(config, sampler, params, prompts, key, *, samples, row_ids,
               max_tokens, size):
  """The static sampler on `size` rows at a time, in one program."""
  count = len(row_ids) // size
  split = lambda x: x.reshape(count, -1, *x.shape[1:])
  out = jax.lax.map(
      lambda part: sample(
          config, sampler, params, part[0], key, samples=samples,
          row_ids=part[1], max_tokens=part[2]),
      jax.tree.map(split, (prompts, row_ids, max_tokens)))
  steps = out.steps.sum()
  out = jax.tree.map(
      lambda x: x.reshape(-1, *x.shape[2:]) if x.ndim > 1 else x, out)
  return dataclasses.replace(out, steps=steps)


def make_sides(config: ModelConfig, params, prompts: Prompts, samples: int,
               limit: int, slots: int):
  """name -> function of i32[B] lengths; compiled when first called."""
  static = SamplerConfig(max_tokens=limit)
  rows = samples * len(prompts.length)
  row_ids = jnp.arange(rows, dtype=jnp.int32)
  names = ('config', 'sampler', 'samples')
  plain = jax.jit(sample, static_argnames=names)
  batches = jax.jit(in_batches, static_argnames=(*names, 'size'))

  def run(function, sampler, max_tokens, **kw):
    return function(config, sampler, params, prompts, jax.random.key(1),
                    samples=samples, row_ids=row_ids, max_tokens=max_tokens,
                    **kw)

  part = functools.partial
  return dict(zip(SIDES, (
      part(run, plain, dataclasses.replace(static, slots=slots)),
      part(run, plain, static), part(run, batches, static, size=slots))))


def compare(sides, drawn: list[np.ndarray], slots: int) -> dict:
  """One row of the table: all sides on the same lengths, in turns.

  Args:
    sides: from `make_sides`.
    drawn: lengths i32[B] of each round.
    slots: of the first side.

  Returns:
    Medians over rounds, and the ratios of each.
  """
  rounds = [_round(sides, jnp.asarray(lengths), slots) for lengths in drawn]
  middle = lambda what: statistics.median(x[what] for x in rounds)
  of_sides = lambda what: {
      name: statistics.median(x[what][name] for x in rounds) for name in sides}
  row = dict(tokens=middle('tokens'), slot_use=middle('slot_use'),
             steps=of_sides('steps'), ms=of_sides('ms'))
  for name in SIDES[1:]:
    pairs = [x['ms'][name] / x['ms']['slots'] for x in rounds]
    row[name] = dict(
        ratio=statistics.median(pairs), ratios=pairs,
        same_tokens=all(x['same'][name] for x in rounds),
        log_prob_gap=max(x['gap'][name] for x in rounds))
  return row


def _round(sides, max_tokens, slots):
  """What one round of all sides took, and whether they drew the same."""
  out, times = {}, {}
  for name, side in sides.items():
    start = time.perf_counter()
    out[name] = jax.block_until_ready(side(max_tokens))
    times[name] = 1e3 * (time.perf_counter() - start)
  ours, tokens = out['slots'], int(max_tokens.sum())
  # First tokens are drawn from what was read, and in no slot.
  decoded, drawn = tokens - len(max_tokens), int(ours.steps) - 1
  return dict(
      tokens=tokens, slot_use=decoded / (slots * max(drawn, 1)),
      steps={name: int(x.steps) for name, x in out.items()}, ms=times,
      same={name: bool(jnp.array_equal(ours.tokens, x.tokens)
                       and jnp.array_equal(ours.length, x.length))
            for name, x in out.items()},
      gap={name: float(jnp.abs(ours.log_probs - x.log_probs).max())
           for name, x in out.items()})


def run(config: ModelConfig = MODEL, prompts: int = 32, samples: int = 8,
        width: int = 32, limit: int = 128, slots: int = 32, rounds: int = 5,
        show=print) -> dict:
  """The whole benchmark.

  Args:
    config: of the model; its weights are random.
    prompts: N.
    samples: G.
    width: tokens of each prompt.
    limit: of each response.
    slots: rows that are decoded at a time.
    rounds: of every comparison.
    show: what is called with each line.

  Returns:
    What rollouts.json holds.

  Raises:
    ValueError: batches of `slots` rows do not hold whole prompts.
  """
  if slots % samples or prompts * samples % slots:
    raise ValueError(
        f'slots is {slots}; it must be a multiple of the {samples} samples and '
        f'divide the {prompts * samples} rows, so that batches hold whole '
        'prompts')
  params = transformer.init(config, jax.random.key(0))
  tokens = jax.random.randint(
      jax.random.key(2), (prompts, width), 1, config.vocab_size)
  sides = make_sides(
      config, params, Prompts(tokens, jnp.full(prompts, width)), samples,
      limit, slots)
  for side in sides.values():  # Compiles.
    jax.block_until_ready(side(jnp.ones(prompts * samples, jnp.int32)))
  rows, load = {}, os.getloadavg()[0]
  show(_HEAD)
  drawn = [lengths(prompts * samples, limit, seed) for seed in range(rounds)]
  for name in drawn[0]:
    rows[name] = compare(sides, [each[name] for each in drawn], slots)
    show(_line(name, rows[name]))
  return dict(
      machine=machine(None), load=[load, os.getloadavg()[0]],
      dtype=config.dtype,
      parameters=sum(x.size for x in jax.tree.leaves(params)), prompts=prompts,
      samples=samples, width=width, limit=limit, slots=slots, rounds=rounds,
      rows=rows)


_HEAD = (f'{"lengths":12}{"tokens":>8}{"steps":>7}{"use":>6}{"slots ms":>10}'
         f'{"at once ms":>12}{"ratio":>7}{"batches ms":>12}{"ratio":>7}  text')


def _line(name, row):
  ms, once, batches = row['ms'], row['at once'], row['batches']
  same = once['same_tokens'] and batches['same_tokens']
  return (f'{name:12}{row["tokens"]:>8.0f}{row["steps"]["slots"]:>7.0f}'
          f'{row["slot_use"]:>6.2f}{ms["slots"]:>10.0f}{ms["at once"]:>12.0f}'
          f'{once["ratio"]:>7.2f}{ms["batches"]:>12.0f}'
          f'{batches["ratio"]:>7.2f}  {"same" if same else "DIFFER"}')


def markdown(result: dict) -> str:
  """The page's table.

  Args:
    result: as `run` returns it.

  Returns:
    Markdown.
  """
  facts = ', '.join(f'{name} {x}' for name, x in result['machine'].items())
  count = result['prompts'] * result['samples']
  lines = [
      f'{result["parameters"] / 1e6:.2f} million parameters, '
      f'{result["dtype"]}; {count} rows of {result["prompts"]} prompts of '
      f'{result["width"]} tokens, responses of at most {result["limit"]}, '
      f'{result["slots"]} slots; {result["rounds"]} rounds; {facts}, load '
      + ' to '.join(f'{x:.1f}' for x in result['load']) + '.', '',
      '| lengths | mean | slot use | steps: slots / at once / batches '
      '| ms: slots / at once / batches | at once / slots (range) '
      '| batches / slots (range) | tokens | log-probs apart |',
      '| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: |']
  for name, row in result['rows'].items():
    sides = [row[side] for side in SIDES[1:]]
    same = all(side['same_tokens'] for side in sides)
    lines.append('| ' + ' | '.join([
        name, f'{row["tokens"] / count:.0f}', f'{row["slot_use"]:.2f}',
        ' / '.join(f"{row['steps'][side]:.0f}" for side in SIDES),
        ' / '.join(report.number(row['ms'][side]) for side in SIDES),
        *(f'{side["ratio"]:.2f} ({min(side["ratios"]):.2f} to '
          f'{max(side["ratios"]):.2f})' for side in sides),
        'the same' if same else 'DIFFER',
        f'{max(side["log_prob_gap"] for side in sides):.0e}']) + ' |')
  return '\n'.join(lines)


def main(argv=None) -> int:
  """Parses the command line; 1 when the tokens differ."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  add = parser.add_argument
  for name, value, text in (
      ('prompts', 32, 'N'), ('samples', 8, 'responses to each'),
      ('width', 32, 'tokens of a prompt'), ('limit', 128, 'of a response'),
      ('slots', 32, 'rows at a time'), ('rounds', 5, 'of each comparison')):
    add(f'--{name}', type=int, default=value, help=text)
  add('--dtype', default='float32', help='of weights and computation')
  add('--out', help='JSON file for the results')
  add('--page', help='page whose table between markers is replaced')
  args = parser.parse_args(argv)
  config = MODEL.replace(dtype=args.dtype, param_dtype=args.dtype)
  result = run(config, args.prompts, args.samples, args.width, args.limit,
               args.slots, args.rounds, functools.partial(print, flush=True))
  if args.out:
    pathlib.Path(args.out).write_text(json.dumps(result, indent=1), 'utf-8')
  if args.page:
    report.put(args.page, 'rollouts', markdown(result))
  return int(not all(
      row[side]['same_tokens'] for row in result['rows'].values()
      for side in SIDES[1:]))


if __name__ == '__main__':
  sys.exit(main())
