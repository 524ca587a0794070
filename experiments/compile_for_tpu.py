"""Compiles the programs of a run for a TPU slice that is not there.

  python experiments/compile_for_tpu.py --config=configs/llama3_8b_v5p.py \
      --topology=v5p:4x4x4 [--programs=update,decode] [--json=out.json] \
      [--sweep] [--config.batching.microbatches=8]

Prints for each program what it takes of a device: memory by kind, FLOPs, HBM
traffic, collectives, the largest arrays, and the time that a roofline gives.
Needs libtpu (`pip install -e '.[aot]'`) and no TPU; makes no array.

The exit code is 0 when everything fits and 1 when something does not. With
`--sweep`, meshes, policies of recomputation and sizes of microbatches are
tried for the update, or for the programs that `--programs` names, and the best
is printed with the reasons.
"""

import json
import os
import pathlib
import sys

# The programs are compiled for a TPU, and traced here.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

from absl import app, flags, logging  # noqa: E402
from ml_collections import ConfigDict, config_flags  # noqa: E402

# Configs import each other as `configs.X`, and this folder's packages too.
sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from experiments.aot import (  # noqa: E402
    analysis,
    chips,
    programs,
    report,
    shapes,
    topologies,
)
from experiments.aot import sweep as sweeps  # noqa: E402
from policyopt import methods  # noqa: E402
from policyopt.names import check_name  # noqa: E402
from policyopt.training import errors  # noqa: E402

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'A program with get_config(arg), as in configs/.')
_TOPOLOGY = flags.DEFINE_string(
    'topology', None, 'The slice, such as v5p:4x4x4 or v6e:8x8.')
_PROGRAMS = flags.DEFINE_list(
    'programs', list(programs.NAMES), 'Which programs to compile.')
_PROMPT = flags.DEFINE_integer(
    'prompt_length', None, "Width of the prompts; by default the task's.")
_JSON = flags.DEFINE_string('json', None, 'File for the results as JSON.')
_TEXT = flags.DEFINE_string(
    'text', None, "Folder for the compiled programs' text.")
_SWEEP = flags.DEFINE_bool('sweep', False, 'Look for the best way to run it.')
_REMATS = flags.DEFINE_list('remats', ['full', 'names'], 'Of the sweep.')
_TENSORS = flags.DEFINE_list('tensors', ['1', '2', '4'], 'Of the sweep.')
_PER_SHARD = flags.DEFINE_list(
    'per_shard', ['1', '2', '4'],
    'Of the sweep: rows of a microbatch on each shard.')


def main(argv):
  with errors.in_one_line():
    if len(argv) > 1:
      raise ValueError(f'unexpected argument {argv[1]!r}; flags begin with --')
    for name in _PROGRAMS.value:
      check_name('program', name, programs.NAMES)
    work = sweep if _SWEEP.value else compile_all
    return work(_CONFIG.value, _TOPOLOGY.value)


def compile_all(config: ConfigDict, topology: str) -> int:
  """Compiles every program of a config; returns the exit code."""
  chip, sizes = chips.parse(topology)
  method = methods.from_config(config)
  run = shapes.describe(
      config, method, topologies.devices(topology), _PROMPT.value)
  print(report.head(topology, chip, run), flush=True)
  results = []
  devices = run.parts.mesh.size
  for program in programs.programs(run, _PROGRAMS.value):
    results.append(analysis.analyse(run, program, chip, sizes,
                                    _TEXT.value))
    print(report.program(results[-1], devices, chip.devices), flush=True)
  lines = report.whole_step(results, run, devices // chip.devices)
  print('\n'.join(lines + report.assumptions() + report.verdict(results)))
  _write(report.as_json(topology, chip, run, results))
  return 0 if all(result.fits for result in results) else 1


def sweep(config: ConfigDict, topology: str) -> int:
  """Looks for the best way to run the update; returns the exit code.

  Given `--programs`, the best for all of these together.
  """
  names = _PROGRAMS.value if flags.FLAGS['programs'].present else ['update']
  chip, sizes = chips.parse(topology)
  method = methods.from_config(config)
  devices = topologies.devices(topology)

  def attempt(candidate):
    changed = ConfigDict(config)
    changed.update_from_flattened_dict(candidate.changes())
    try:
      run = shapes.describe(changed, method, devices, _PROMPT.value)
      results = [analysis.analyse(run, program, chip, sizes)
                 for program in programs.programs(run, names)]
    except ValueError as error:
      return sweeps.Outcome(candidate, error=str(error))
    needed = max(result.memory.total if result.memory else result.needed
                 for result in results)
    slowest = max(results, key=lambda result: result.estimate.bound)
    return sweeps.Outcome(
        candidate, needed, results[0].limit,
        sum(result.estimate.bound for result in results),
        sum(result.estimate.apart for result in results),
        slowest.estimate.limit)

  model = shapes.describe(config, method, devices, _PROMPT.value).parts.model
  options = list(sweeps.candidates(
      len(devices), config.prompts * config.samples, config.prompts,
      expert=config.mesh.expert, heads=model.num_kv_heads,
      tensors=[int(x) for x in _TENSORS.value], remats=_REMATS.value,
      per_shard=[int(x) for x in _PER_SHARD.value]))
  if not options:
    raise ValueError(
        f'no mesh of {len(devices)} devices divides {config.prompts} prompts '
        f'x {config.samples} samples; change prompts, --tensors or '
        '--per_shard')
  print(f'{topology}: {len(options)} ways to run {", ".join(names)}',
        flush=True)
  outcomes = sweeps.run(options, attempt, lambda x: print(x, flush=True))
  lines = sweeps.reasons(outcomes)
  print('\n'.join(['', *lines]))
  _write(dict(topology=topology, reasons=lines, outcomes=[
      dict(label=o.candidate.label(), fits=o.fits, total=o.total,
           limit=o.limit, bound=o.seconds, apart=o.apart, error=o.error)
      for o in outcomes]))
  return 0 if sweeps.best(outcomes) else 1


def _write(found) -> None:
  if _JSON.value:
    words = [word for word in sys.argv[1:]
             if not word.startswith(('--json', '--text'))]
    found = dict(command=' '.join(words), **found)
    path = pathlib.Path(_JSON.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + '\n')


if __name__ == '__main__':
  logging.set_verbosity(logging.WARNING)
  flags.mark_flags_as_required(['config', 'topology'])
  with errors.in_one_line():
    app.run(main, flags_parser=errors.parse_flags)
