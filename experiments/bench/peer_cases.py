"""What is timed against other libraries: one `Case` per group of rows."""

from __future__ import annotations

import dataclasses
import fnmatch

# Fields of the decoder of every side, in the shape of Qwen 3: norms on queries
# and keys, grouped queries, SwiGLU, tied embeddings. 0.9, 4.6, 9.6 and 26
# million parameters; 'nano' is for tests.
MODELS = {
    'nano': dict(width=32, layers=2, heads=2, kv_heads=1, head_dim=16,
                 mlp=64),
    'one': dict(width=128, layers=4, heads=4, kv_heads=2, head_dim=32,
                mlp=352),
    'small': dict(width=256, layers=6, heads=8, kv_heads=4, head_dim=32,
                  mlp=704),
    'ten': dict(width=384, layers=6, heads=6, kv_heads=2, head_dim=64,
                mlp=1024),
    'thirty': dict(width=512, layers=8, heads=8, kv_heads=4, head_dim=64,
                   mlp=1536)}
VOCABULARY = 512
# In the order of a round.
SIDES = ('trl', 'ours', 'ours_shared', 'ours_warm', 'ours_lean', 'tunix')
# What a side of ours changes in its cases.
CHANGES = {'ours': dict(share_prompts=False),
           'ours_shared': dict(share_prompts=True),
           'ours_warm': dict(share_prompts=True, steps=1, calls=0),
           'ours_lean': dict(share_prompts=True, remat='names', calls=0)}
# Sides that find their programs in the persistent cache of compiled ones, and
# the side whose programs these are.
WARM = {'ours_warm': 'ours_shared', 'ours_lean': 'ours_lean'}
PROGRAMS = {'trl': 'with_trl', 'tunix': 'with_tunix'} | dict.fromkeys(
    CHANGES, 'ours')
SHORT = ('trl', 'ours_shared')


@dataclasses.dataclass(frozen=True)
class Case:
  """One shape of a GRPO step.

  Attributes:
    name: of its rows, 'group/value'.
    model: of `MODELS`.
    dtype: of the computation; parameters are float32 on every side.
    prompts: N of a step.
    samples: G to each.
    prompt: tokens of each prompt.
    response: tokens of each response, forced; at most, where they differ.
    microbatches: that the update is cut into.
    sides: that run.
    steps: whole steps that a process times, after the first one; 0: none,
      generation alone is timed.
    calls: of generation alone that a process times.
    lengths: 'equal', or 'lognormal': responses end where a law says.
    slots: rows that ours decodes at a time; 0: all.
  """
  name: str
  model: str = 'small'
  dtype: str = 'float32'
  prompts: int = 8
  samples: int = 8
  prompt: int = 32
  response: int = 64
  microbatches: int = 4
  sides: tuple[str, ...] = SIDES
  steps: int = 5
  calls: int = 4
  lengths: str = 'equal'
  slots: int = 0

  def spec(self) -> dict:
    """What a side is told, and what tells old results from new ones."""
    fields = dataclasses.asdict(self)
    del fields['sides']
    return fields | dict(vocabulary=VOCABULARY, shape=MODELS[self.model])


def _all():
  for model in ('small', 'ten'):
    for dtype in ('float32', 'bfloat16'):
      yield Case(f'step/{model} {dtype}', model, dtype)
  for dtype in ('float32', 'bfloat16'):
    yield Case(f'generate/prompt 512 {dtype}', dtype=dtype, prompt=512,
               sides=('trl', 'ours', 'tunix'), steps=0, calls=3)
  for prompt in (128, 256):
    yield Case(f'prompt/{prompt}', prompt=prompt, sides=SHORT, steps=3, calls=3)
  for samples in (4, 16):
    yield Case(f'samples/{samples}', prompts=64 // samples, samples=samples,
               sides=SHORT, steps=3, calls=3)
  for prompts in (4, 16):
    yield Case(f'batch/{prompts} prompts', prompts=prompts, sides=SHORT,
               steps=3, calls=3)
  for model in ('one', 'thirty'):
    yield Case(f'model/{model}', model, sides=SHORT, steps=3, calls=3)
  yield Case('lengths/all 128', prompts=32, response=128, steps=0, calls=2,
             sides=('trl', 'ours', 'tunix'))
  yield Case('lengths/lognormal', prompts=32, response=128, steps=0, calls=2,
             sides=('trl', 'ours', 'tunix'), lengths='lognormal', slots=32)


CASES = tuple(_all())


def select(patterns: str = '', quick: bool = False) -> tuple[Case, ...]:
  """The cases that are asked for.

  Args:
    patterns: of names, with * and ?, separated by commas; '' for all.
    quick: the small model alone, with fewer steps.

  Returns:
    Cases, in the order of the table.

  Raises:
    ValueError: nothing matches.

  Example:
    >>> [case.name for case in select('step/ten*')]
    ['step/ten float32', 'step/ten bfloat16']
    >>> select('stpe')
    Traceback (most recent call last):
    ValueError: --only=stpe matches none of the cases: step/small float32, ...
  """
  wanted = patterns.split(',') if patterns else ['*']
  chosen = [case for case in CASES if any(
      fnmatch.fnmatch(case.name, pattern) for pattern in wanted)]
  if not chosen:
    raise ValueError(f'--only={patterns} matches none of the cases: '
                     + ', '.join(case.name for case in CASES))
  if quick:
    chosen = [dataclasses.replace(case, steps=2, calls=2) for case in chosen
              if case.name.startswith('step/small') or patterns]
  return tuple(chosen)
