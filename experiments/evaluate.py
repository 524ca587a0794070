"""Evaluates a run: unbiased pass@k, maj@k and length on held-out problems.

  python experiments/evaluate.py --workdir=runs/grpo [--step=100] \
      [--problems=1000] [--samples=16] [--k=1,4,16] [--temperature=0.7]

Prints a table with 95% intervals over problems, then one JSON object. Without
--step the newest checkpoint is taken; step 0 is the policy before
reinforcement learning.
"""

from policyopt import large_pages

if __name__ == '__main__':
  large_pages.restart()

import dataclasses
import json

from absl import app, flags, logging
import jax

from policyopt import methods
from policyopt.training import errors, evaluate, loop, policies, record
from policyopt.training.serving import Serving
from policyopt.training.setup import prepare

_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.')
_STEP = flags.DEFINE_integer('step', None, 'Checkpoint; the newest if None.')
_PROBLEMS = flags.DEFINE_integer('problems', 512, 'Held-out problems.')
_SAMPLES = flags.DEFINE_integer('samples', 8, 'Samples per problem.')
_K = flags.DEFINE_list('k', None, 'For pass@k; 1 and samples if None.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of the sampling.')
_TEMPERATURE = flags.DEFINE_float('temperature', None, "Instead of the run's.")
_TOP_P = flags.DEFINE_float('top_p', None, "Instead of the run's.")
_TOP_K = flags.DEFINE_integer('top_k', None, "Instead of the run's.")


def evaluate_run(workdir, step, problems, samples, ks, seed, **sampler):
  """The summary of one checkpoint of a run, as a dict.

  Args:
    workdir: folder of the run.
    step: of the checkpoint, None for the newest.
    problems: held-out problems, from the first on.
    samples: per problem.
    ks: for pass@k; None for 1 and `samples`.
    seed: of the sampling.
    **sampler: fields of the run's SamplerConfig to change.

  Returns:
    What `training.evaluate.summary` returns, and the step.

  Raises:
    ValueError: in one line, for whatever does not fit the run.
  """
  for name, value in (('problems', problems), ('samples', samples)):
    if value < 1:
      raise ValueError(f'{name} is {value}; it must be at least 1')
  for k in ks or ():
    if not 1 <= k <= samples:
      raise ValueError(f'k is {k}; with {samples} samples per problem it must '
                       f'be in [1, {samples}]')
  config = record.load_config(workdir)
  method = methods.from_config(config)
  setup = prepare(config, method)
  try:
    setup = setup._replace(
        sampler=dataclasses.replace(setup.sampler, **sampler))
    setup.sampler.validate(setup.model.vocab_size)
    with jax.set_mesh(setup.mesh):
      params, step = policies.restore_params(setup, workdir, step)
      result = evaluate.evaluate(
          loop.make_draw(setup)(
              Serving(setup.model, setup.serving)(params), samples),
          setup.test, problems, config.prompts, jax.random.key(seed))
  finally:
    setup.close()
  return dict(step=step, **evaluate.summary(result, ks))


def _ks(words):
  """The k of pass@k, as numbers."""
  bad = [word for word in words or () if not word.strip().isdigit()]
  if bad:
    raise ValueError(f'k has {bad[0]!r}; it must be numbers, such as 1,4,16')
  return words and tuple(map(int, words))


def main(argv):
  changes = dict(temperature=_TEMPERATURE.value, top_p=_TOP_P.value,
                 top_k=_TOP_K.value)
  changes = {k: v for k, v in changes.items() if v is not None}
  with errors.in_one_line():
    if len(argv) > 1:
      raise ValueError(f'unexpected argument {argv[1]!r}; flags begin with --')
    numbers = evaluate_run(
        _WORKDIR.value, _STEP.value, _PROBLEMS.value, _SAMPLES.value,
        _ks(_K.value), _SEED.value, **changes)
  print(record.table({f'step {numbers["step"]}': numbers}))
  print(json.dumps(numbers))


if __name__ == '__main__':
  logging.set_verbosity(logging.WARNING)  # Orbax tells each of its steps.
  flags.mark_flag_as_required('workdir')
  with errors.in_one_line():
    app.run(main, flags_parser=errors.parse_flags)
