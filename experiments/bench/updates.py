"""Times the update with shared prompts against the same without.

  python experiments/bench/updates.py [--models=small,ten] \
      [--dtypes=float32,bfloat16] [--prompts=32,128,256] [--rounds=5] \
      [--out=updates.json] [--page=README.md]

An update is what `training.loop` runs once a step: forward, backward and
AdamW for one batch of GRPO, in microbatches. Both sides have the same state,
rows and weights of tokens, and run in turns in one process: without, with,
without, with. The gradients of their first updates are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

ROOT = pathlib.Path(__file__).resolve().parents[2]
if __name__ == '__main__':
  # As `experiments.bench.X`, and not by their names in this folder.
  sys.path[0] = str(ROOT)

from experiments.bench import report  # noqa: E402
from experiments.bench.kernels import machine  # noqa: E402
from policyopt import methods  # noqa: E402
from policyopt.models import partitioning, transformer  # noqa: E402
from policyopt.models.config import ModelConfig  # noqa: E402
from policyopt.models.shared import Sizes  # noqa: E402
from policyopt.training import state as states  # noqa: E402
from policyopt.training.credit import Credit, init_credit  # noqa: E402
from policyopt.training.learner import Batching, make_learner  # noqa: E402
from policyopt.types import Rollout, TrainState  # noqa: E402

# Decoders of 4.6 and 9.6 million parameters, in the shape of Qwen 3.
MODELS = {
    'small': dict(width=256, num_heads=8, num_kv_heads=4, head_dim=32,
                  mlp_width=704),
    'ten': dict(width=384, num_heads=6, num_kv_heads=2, head_dim=64,
                mlp_width=1024),
    'nano': dict(width=32, num_heads=2, num_kv_heads=1, head_dim=16,
                 mlp_width=64, num_layers=2)}
_DECAY = 0.9


def model(name: str, dtype: str) -> ModelConfig:
  """One of `MODELS`."""
  return ModelConfig(**dict(vocab_size=512, num_layers=6, qk_norm=True,
                            dtype=dtype) | MODELS[name])


def batch(sizes: Sizes, groups: int, vocab: int = 512) -> Credit:
  """Rows of full length with random tokens and advantages."""
  rng = np.random.default_rng(0)
  rows, length = groups * sizes.samples, sizes.prompt + sizes.response
  prompts = rng.integers(0, vocab, (groups, sizes.prompt))
  tokens = np.concatenate([
      np.repeat(prompts, sizes.samples, axis=0),
      rng.integers(0, vocab, (rows, sizes.response))], axis=1)
  mask = np.broadcast_to(np.arange(length) >= sizes.prompt, tokens.shape)
  advantages = np.where(mask, rng.normal(size=(rows, 1)), 0)
  return jax.tree.map(jnp.asarray, Credit(
      Rollout(tokens=tokens.astype(np.int32), mask=mask,
              log_probs=np.where(mask, -np.log(vocab), 0).astype(np.float32),
              group=np.repeat(np.arange(groups), sizes.samples).astype(
                  np.int32), rewards={}),
      advantages.astype(np.float32),
      (mask / mask.sum()).astype(np.float32)))


class Side:
  """A compiled update and its state."""

  def __init__(self, config: ModelConfig, sizes: Sizes, groups: int,
               microbatches: int, share: bool):
    method, mesh = methods.grpo(beta=0.), partitioning.make_mesh(
        (1, 1, 1, 1), jax.devices()[:1])
    optimizer = optax.adamw(1e-4, b1=_DECAY)
    learner = make_learner(
        config, method, optimizer, mesh, sizes=sizes, batching=Batching(
            microbatches=microbatches, share_prompts=share),
        state_shardings=states.state_shardings(
            config, method, optimizer, mesh))
    params = transformer.init(config, jax.random.key(0))
    self.state = TrainState(
        step=jnp.int32(0), params=params, opt_state=optimizer.init(params),
        credit_state=init_credit(method), plan_state=method.plan.init(None),
        key=jax.random.key(1), skipped=jnp.int32(0))
    self.inputs = batch(sizes, groups, config.vocab_size), jax.random.key(2)
    start = time.perf_counter()
    self.run = learner.update.lower(self.state, *self.inputs).compile()
    self.compile_s = time.perf_counter() - start
    memory = self.run.memory_analysis()
    self.temporary_mb = memory.temp_size_in_bytes / 1e6

  def __call__(self) -> float:
    """One update; returns its milliseconds."""
    start = time.perf_counter()
    self.state, _ = jax.block_until_ready(self.run(self.state, *self.inputs))
    return 1e3 * (time.perf_counter() - start)

  def gradient(self):
    """Of the first update, if only that has run: AdamW remembers it."""
    mean = optax.tree_utils.tree_get(self.state.opt_state, 'mu')
    return jax.tree.map(
        lambda x: np.asarray(x, np.float64) / (1 - _DECAY), mean)


def distance(ours, theirs) -> float:
  """‖ours − theirs‖ / ‖theirs‖ of two gradients, the largest over the arrays.
  """
  return max(jax.tree.leaves(jax.tree.map(
      lambda a, b: float(np.linalg.norm(a - b) / np.linalg.norm(b)),
      ours, theirs)))


def compare(name: str, dtype: str, sizes: Sizes, groups: int,
            microbatches: int, rounds: int) -> dict:
  """One row of the table.

  Args:
    name: of the model.
    dtype: of its computation.
    sizes: of groups, prompts and responses.
    groups: in the batch.
    microbatches: of the batch.
    rounds: how often each side is timed.

  Returns:
    The row: ratios are without sharing over with; 'ratio' is the median of
    the rounds' own ratios.
  """
  config = model(name, dtype)
  without, shared = (
      Side(config, sizes, groups, microbatches, share)
      for share in (False, True))
  without(), shared()
  apart = distance(shared.gradient(), without.gradient())
  load = os.getloadavg()[0]
  pairs = [(without(), shared()) for _ in range(rounds)]
  ratios = [a / b for a, b in pairs]
  left, right = zip(*pairs)
  samples, prompt, response = sizes
  tokens = (samples * (prompt + response) / (prompt + samples * response))
  return dict(
      model=name, dtype=dtype, groups=groups, **sizes._asdict(),
      microbatches=microbatches, rounds=rounds, load=load,
      without_ms=statistics.median(left), shared_ms=statistics.median(right),
      ratio=statistics.median(ratios), least=min(ratios), most=max(ratios),
      best=min(left) / min(right), token_ratio=tokens,
      gradient_difference=apart,
      compile_s=[without.compile_s, shared.compile_s],
      temporary_mb=[without.temporary_mb, shared.temporary_mb])


def markdown(result: dict) -> str:
  """The page's table."""
  facts = ', '.join(f'{k} {v}' for k, v in result['machine'].items())
  lines = [
      f'{facts}.', '',
      '| model | dtype | prompt | without, ms | shared, ms | ratio (range) '
      '| best / best | tokens | of tokens | gradients apart '
      '| temporaries, MB | load |',
      '| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: '
      '| ---: | ---: |']
  for row in result['rows']:
    lines.append('| ' + ' | '.join([
        row['model'], row['dtype'], str(row['prompt']),
        report.number(row['without_ms']), report.number(row['shared_ms']),
        f'{row["ratio"]:.2f} ({row["least"]:.2f}-{row["most"]:.2f})',
        f'{row["best"]:.2f}', f'{row["token_ratio"]:.2f}',
        f'{row["ratio"] / row["token_ratio"]:.0%}',
        f'{row["gradient_difference"]:.0e}',
        ' / '.join(f'{x:.0f}' for x in row['temporary_mb']),
        f'{row["load"]:.1f}']) + ' |')
  return '\n'.join(lines)


def main(argv=None) -> int:
  """Runs, prints and writes."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  add = parser.add_argument
  add('--models', default='small,ten', help=f'of {", ".join(MODELS)}')
  add('--dtypes', default='float32,bfloat16')
  add('--prompts', default='32,128,256', help='tokens of a prompt')
  add('--groups', type=int, default=8, help='prompts of a batch')
  add('--samples', type=int, default=8, help='responses to a prompt')
  add('--response', type=int, default=64, help='tokens of a response')
  add('--microbatches', type=int, default=4)
  add('--rounds', type=int, default=5)
  add('--out', help='JSON file for the results')
  add('--page', help='page whose table between markers is replaced')
  args = parser.parse_args(argv)
  result = dict(machine=machine(None), rows=[])
  for name in args.models.split(','):
    for dtype in args.dtypes.split(','):
      for prompt in map(int, args.prompts.split(',')):
        result['rows'].append(compare(
            name, dtype, Sizes(args.samples, prompt, args.response),
            args.groups, args.microbatches, args.rounds))
        print(markdown(dict(result, rows=result['rows'][-1:])).splitlines()[-1],
              flush=True)
        if args.out:
          pathlib.Path(args.out).write_text(
              json.dumps(result, indent=1), 'utf-8')
  if args.page:
    report.put(args.page, 'updates', markdown(result))
  return 0


if __name__ == '__main__':
  sys.exit(main())
