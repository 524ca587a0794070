"""Tries meshes, remat policies and microbatch sizes; says which is best."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import dataclasses
import itertools
from typing import Any

from experiments.aot.memory import gib


@dataclasses.dataclass(frozen=True)
class Candidate:
  """One way to run a config.

  Attributes:
    fsdp: shards of the parameters and of the rows.
    tensor: shards of heads, widths and vocabulary.
    remat: policy of recomputation.
    microbatches: pieces of a step.
  """
  fsdp: int
  tensor: int
  remat: str
  microbatches: int

  def label(self) -> str:
    """In a line."""
    return (f'fsdp {self.fsdp} x tensor {self.tensor}, remat {self.remat}, '
            f'{self.microbatches} microbatches')

  def changes(self) -> dict[str, Any]:
    """As keys of a config."""
    return {
        'mesh.data': 1, 'mesh.fsdp': self.fsdp, 'mesh.tensor': self.tensor,
        'model.kw.remat': self.remat,
        'batching.microbatches': self.microbatches}


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What came of a candidate.

  Attributes:
    candidate: that was tried.
    total: bytes of one device; what is needed when it does not fit.
    limit: bytes that there are.
    seconds: of the programs at the roofline's bound.
    apart: of the programs when nothing overlaps.
    bound: what the bound comes from.
    error: why it could not be tried at all, or ''.
  """
  candidate: Candidate
  total: float = 0.
  limit: float = 0.
  seconds: float = float('inf')
  apart: float = float('inf')
  bound: str = ''
  error: str = ''

  @property
  def fits(self) -> bool:
    """Whether it can run."""
    return not self.error and self.total <= self.limit

  @property
  def expected(self) -> float:
    """Seconds to rank by: half of what could overlap does."""
    return (self.seconds + self.apart) / 2


def candidates(devices: int, rows: int, prompts: int, *, expert: int = 1,
               heads: int, tensors=(1, 2, 4, 8), remats=('full', 'names'),
               per_shard=(1, 2, 4, 8)) -> Iterator[Candidate]:
  """The ways that divide rows, prompts and heads.

  Args:
    devices: of the slice.
    rows: of a step.
    prompts: of a step; a microbatch holds whole groups.
    expert: size of the mesh's expert axis.
    heads: key heads of the model; more tensor shards than these repeat them.
    tensors: sizes of the tensor axis to try.
    remats: policies to try.
    per_shard: rows of a microbatch on each shard.

  Yields:
    Candidate, without repetition.

  Example:
    >>> for candidate in candidates(8, 64, 8, heads=4, tensors=(1, 2),
    ...                             remats=('full',), per_shard=(4,)):
    ...   print(candidate.label())
    fsdp 8 x tensor 1, remat full, 2 microbatches
    fsdp 4 x tensor 2, remat full, 4 microbatches
  """
  seen = set()
  for tensor, remat, each in itertools.product(tensors, remats, per_shard):
    if devices % (tensor * expert) or tensor > heads:
      continue
    fsdp = devices // (tensor * expert)
    if rows % (fsdp * each):
      continue
    pieces = rows // (fsdp * each)
    if pieces > prompts or prompts % pieces:
      continue
    candidate = Candidate(fsdp, tensor, remat, pieces)
    if candidate not in seen:
      seen.add(candidate)
      yield candidate


def run(options: list[Candidate], attempt: Callable[[Candidate], Outcome],
        tell: Callable[[str], None] = lambda line: None) -> list[Outcome]:
  """Tries them; larger microbatches of what did not fit are left out.

  Args:
    options: to try.
    attempt: compiles one.
    tell: is given a line about each.

  Returns:
    An Outcome for each that was tried.
  """
  outcomes, refused = [], set()
  # Many small pieces first: what they do not fit into, larger ones do not.
  for option in sorted(options, key=lambda c: -c.microbatches):
    family = (option.fsdp, option.tensor, option.remat)
    if family in refused:
      tell(f'{option.label()}: not tried, smaller microbatches do not fit')
      continue
    outcome = attempt(option)
    outcomes.append(outcome)
    tell(line(outcome))
    if not outcome.fits:
      refused.add(family)
  return outcomes


def line(outcome: Outcome) -> str:
  """An outcome in a line."""
  label = outcome.candidate.label()
  if outcome.error:
    return f'{label}: cannot be tried: {outcome.error}'
  if not outcome.fits:
    return (f'{label}: does not fit, {gib(outcome.total)} of '
            f'{gib(outcome.limit)} GiB')
  return (f'{label}: {gib(outcome.total)} of {gib(outcome.limit)} GiB, '
          f'{outcome.seconds:.3g} to {outcome.apart:.3g} s '
          f'({outcome.bound})')


def best(outcomes: list[Outcome], margin: float = 0.05) -> Outcome | None:
  """The fastest that fits; among nearly equals, the one that leaves most room.

  Args:
    outcomes: of `run`.
    margin: times within this share of the fastest are equal: the estimate is
      no better.
  """
  fitting = [o for o in outcomes if o.fits]
  if not fitting:
    return None
  fastest = min(o.expected for o in fitting)
  near = [o for o in fitting if o.expected <= fastest * (1 + margin)]
  return min(near, key=lambda o: (o.total, o.expected))


def reasons(outcomes: list[Outcome], margin: float = 0.05) -> list[str]:
  """The choice in words."""
  chosen = best(outcomes, margin)
  if chosen is None:
    least = min((o for o in outcomes if not o.error), default=None,
                key=lambda o: o.total)
    if least is None:
      return ['nothing could be tried']
    return [f'nothing fits; the nearest is {least.candidate.label()}, '
            f'{gib(least.total)} of {gib(least.limit)} GiB']
  fitting = [o for o in outcomes if o.fits]
  fastest = min(fitting, key=lambda o: o.expected)
  lines = [
      f'best: {chosen.candidate.label()}',
      f'  because it is expected to take {chosen.expected:.3g} s a step '
      f'({chosen.seconds:.3g} if all overlaps, {chosen.apart:.3g} if nothing '
      f'does), bound by {chosen.bound}',
      f'  and needs {gib(chosen.total)} of {gib(chosen.limit)} GiB a device']
  if fastest is not chosen:
    lines.append(
        f'  {fastest.candidate.label()} is faster by '
        f'{chosen.expected / fastest.expected - 1:.1%}, which is within the '
        f"estimate's error, and takes "
        f'{gib(fastest.total - chosen.total)} GiB more')
  for other in sorted(fitting, key=lambda o: o.expected):
    if other not in (chosen, fastest):
      lines.append(
          f'  {other.candidate.label()}: {other.expected / chosen.expected:.2f}'
          f' times as long, {gib(other.total)} GiB, bound by {other.bound}')
  refused = [o for o in outcomes if not o.fits]
  lines += [f'  {line(o)}' for o in refused]
  lines.append('  keys: ' + ' '.join(
      f'--config.{key}={value}'
      for key, value in chosen.candidate.changes().items()))
  return lines
