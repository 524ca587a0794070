"""Writes the policy of a run as a folder that `transformers` loads.

  python experiments/export.py --workdir=runs/grpo --out=exported [--step=100] \
      [--dtype=bfloat16] [--max_shard_gb=5] [--adapter]

Without --step the newest checkpoint is taken; step 0 is the policy before
reinforcement learning. An adapter is merged into the weights, a value head is
left out. With --adapter only the adapter is written, for `peft` to load onto
the base model. The tokenizer's files are copied from where the run has them.
Prints one JSON object.
"""

import json
import os

from absl import app, flags, logging
import jax

from policyopt import methods
from policyopt.models import convert, lora, peft
from policyopt.models.choice import folder_of
from policyopt.training import errors, policies, record
from policyopt.training.setup import prepare

_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.')
_STEP = flags.DEFINE_integer('step', None, 'Checkpoint; the newest if None.')
_OUT = flags.DEFINE_string('out', None, 'Folder to write; must be new.')
_DTYPE = flags.DEFINE_string('dtype', None, "Instead of the parameters' own.")
_ADAPTER = flags.DEFINE_bool('adapter', False, 'The adapter alone, for peft.')
_MAX_SHARD_GB = flags.DEFINE_float('max_shard_gb', 5., 'Gigabytes of a file.')


def export_run(workdir, step, out, dtype=None, max_shard_bytes=5 * 10**9):
  """Writes the policy of a checkpoint to a folder.

  Args:
    workdir: folder of the run.
    step: of the checkpoint, None for the newest.
    out: folder to write; must be new or empty.
    dtype: of the tensors; None for that of the parameters.
    max_shard_bytes: of a file.

  Returns:
    {'step', 'out', 'model_type', 'parameters'}.

  Raises:
    ValueError: in one line, for whatever does not fit.
  """
  config = record.load_config(workdir)
  method = methods.from_config(config)
  setup = prepare(config, method)
  try:
    with jax.set_mesh(setup.mesh):
      params, step = policies.restore_params(setup, workdir, step)
      model = setup.model
      if model.lora_rank:
        model, params = lora.merge(model, params)
      words = setup.tokenizer
      source = folder_of(config.model)
      # The folder of a published model has token ids of its own.
      token_ids = None if source else dict(
          eos_token_id=list(words.stop_tokens), pad_token_id=words.pad_id)
      convert.save(
          out, model, params, source=source,
          tokenizer=_tokenizer_folder(words.name), dtype=dtype,
          token_ids=token_ids, max_shard_bytes=max_shard_bytes)
  finally:
    setup.close()
  family, _ = convert.write_config(model)
  written = {name: x for name, x in params.items() if name != 'value_head'}
  return dict(step=step, out=out, model_type=family.model_type,
              parameters=sum(x.size for x in jax.tree.leaves(written)))


def export_adapter(workdir, step, out):
  """Writes the adapter of a checkpoint in the format of `peft`.

  Args:
    workdir: folder of the run.
    step: of the checkpoint, None for the newest.
    out: folder to write.

  Returns:
    {'step', 'out', 'base', 'parameters'}; base is the folder that the run
    began from, '' when that was its own warm start (export step 0 for it).

  Raises:
    ValueError: in one line, for whatever does not fit.
  """
  config = record.load_config(workdir)
  setup = prepare(config, methods.from_config(config))
  base = folder_of(config.model) or ''
  try:
    with jax.set_mesh(setup.mesh):
      params, step = policies.restore_params(setup, workdir, step)
      peft.save(out, setup.model, params, base=base)
  finally:
    setup.close()
  adapter = lora.adapter_only(params)
  return dict(step=step, out=out, base=base,
              parameters=sum(x.size for x in jax.tree.leaves(adapter)))


def _tokenizer_folder(name):
  """Where the files of a tokenizer are; None for one without files."""
  kind, _, path = name.partition(':')
  return os.path.dirname(path) or '.' if kind != 'byte' else None


def main(argv):
  with errors.in_one_line():
    if len(argv) > 1:
      raise ValueError(f'unexpected argument {argv[1]!r}; flags begin with --')
    if _ADAPTER.value:
      print(json.dumps(export_adapter(
          _WORKDIR.value, _STEP.value, _OUT.value)))
      return
    done = export_run(_WORKDIR.value, _STEP.value, _OUT.value, _DTYPE.value,
                      int(_MAX_SHARD_GB.value * 10**9))
  print(json.dumps(done))


if __name__ == '__main__':
  logging.set_verbosity(logging.WARNING)  # Orbax tells each of its steps.
  flags.mark_flags_as_required(['workdir', 'out'])
  with errors.in_one_line():
    app.run(main, flags_parser=errors.parse_flags)
