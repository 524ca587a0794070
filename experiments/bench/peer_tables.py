"""The results of `peers.py` as ratios and tables; needs nothing but Python.

A ratio is the time of the other side over that of ours: above 1, ours is
faster. Both sides of a pair ran one after another in the same round.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import statistics

# Rows of the table of ratios: what is measured -> (its name, other sides).
MEASURES = {'step_ms': 'step', 'generate_ms': 'generate',
            'update_ms': 'update'}
_PLAIN = ('ours', 'ours_shared')
# Ours that each measure is a ratio to; to compile takes memory too.
_OURS = dict.fromkeys(MEASURES, _PLAIN) | {
    'step_ms': (*_PLAIN, 'ours_lean')} | dict.fromkeys(
        ('peak_mb', 'start_s'), (*_PLAIN, 'ours_warm', 'ours_lean'))
NAMES = {'trl': 'TRL', 'tunix': 'Tunix', 'ours': 'ours',
         'ours_shared': 'ours, shared prompts',
         'ours_warm': 'ours, warm cache',
         'ours_lean': 'ours, warm cache, remat'}


def median(run: dict, measure: str) -> float | None:
  """The median of what a process measured, None if it did not."""
  found = run.get(measure)
  if not isinstance(found, list):
    return found
  return statistics.median(found) if found else None


def pairs(runs: Iterable[dict], ours: str, other: str,
          measure: str) -> list[tuple[dict, dict]]:
  """Processes of two sides in the same rounds of a case.

  Args:
    runs: of one case.
    ours: side below the line.
    other: side above it.
    measure: name of a time that both must have.

  Returns:
    (other, ours) of each round that has both.
  """
  found = {(run['side'], run['round']): run for run in runs
           if median(run, measure) is not None}
  rounds = sorted(number for side, number in found if side == ours)
  return [(found[other, i], found[ours, i]) for i in rounds
          if (other, i) in found]


def compare(runs: Iterable[dict], ours: str, other: str,
            measure: str) -> dict | None:
  """The ratios of two sides.

  Args:
    runs: of one case.
    ours: side below the line.
    other: side above it.
    measure: name of a time.

  Returns:
    'ratio' is the median over rounds of the ratio of the medians of the two
    processes, 'least' and 'most' its range, 'best' the ratio of the least
    times of all rounds; None without a pair.
  """
  both = pairs(runs, ours, other, measure)
  if not both:
    return None
  ratios = [median(a, measure) / median(b, measure) for a, b in both]
  return dict(
      ours=ours, other=other, measure=measure, rounds=len(both),
      ratio=statistics.median(ratios), least=min(ratios), most=max(ratios),
      best=min(least(a, measure) for a, _ in both)
      / min(least(b, measure) for _, b in both))


def least(run: dict, measure: str) -> float:
  """The least time of a process, or the one number that there is."""
  found = run[measure]
  return min(found) if isinstance(found, list) else found


def comparisons(cases: Sequence[dict], runs: Sequence[dict]) -> list[dict]:
  """Every ratio that the processes so far allow.

  Args:
    cases: specs, which 'name' tells apart.
    runs: of all of them.

  Returns:
    As `compare`, each with its 'case'.
  """
  out = []
  for case in cases:
    own = [run for run in runs if run['case'] == case['name']]
    for measure, ours in _OURS.items():
      if measure == 'generate_ms' and any(run['side'] == 'ours' for run in own):
        ours = ours[:1]  # The other draws with the same sampler.
      wanted = [(side, other) for other in ('trl', 'tunix') for side in ours]
      if measure in ('step_ms', 'update_ms'):
        wanted.append(('ours_shared', 'ours'))
      found = [compare(own, *sides, measure) for sides in wanted]
      out += [dict(case=case['name']) | row for row in found if row]
  return out


def summary(case: dict, runs: Sequence[dict], side: str) -> dict | None:
  """A side of a case over its rounds: medians of the processes' medians.

  Args:
    case: its spec, and 'tokens' of all responses.
    runs: of all cases.
    side: of `NAMES`.

  Returns:
    Times in milliseconds and seconds, rates in tokens per second, memory in
    megabytes, each None where nothing was measured; None without a process.
  """
  own = [run for run in runs
         if run['case'] == case['name'] and run['side'] == side]
  if not own:
    return None

  def over(measure):
    found = [median(run, measure) for run in own]
    found = [x for x in found if x is not None]
    return statistics.median(found) if found else None

  out = {name: over(name) for name in (
      *MEASURES, 'peak_mb', 'start_s', 'compile_s')}
  rate = lambda tokens, ms: None if ms is None else 1e3 * tokens / ms
  both = case['prompts'] * case['samples'] * case['prompt'] + case['tokens']
  out['generate_rate'] = rate(case['tokens'], out['generate_ms'])
  # As if each row held its prompt, whether or not the side reads it again.
  out['update_rate'] = rate(both, out['update_ms'])
  loads = [x for run in own for x in run['load']]
  return out | dict(rounds=len(own), load=[min(loads), max(loads)])


def number(x: float | None, digits: int = 3) -> str:
  """Digits that mean something, or a dash."""
  if x is None:
    return '-'
  return f'{x:.0f}' if x >= 10**(digits - 1) else f'{x:.{digits}g}'


def _thousands(x):
  return '-' if x is None else f'{x / 1e3:.1f}k'


def markdown(result: dict) -> str:
  """The page's tables.

  Args:
    result: as peers.json holds it.

  Returns:
    Markdown.
  """
  facts = ', '.join(f'{k} {v}' for k, v in result['machine'].items())
  lines = [
      f'{facts}; {_rounds(result["runs"])}.', '',
      '| case | side | generate, ms (tok/s) | update, ms (tok/s) | step, ms '
      '| first step, s | compiles, s | peak, MB | load |',
      '| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |']
  for case in result['cases']:
    for side in NAMES:
      row = summary(case, result['runs'], side)
      if row:
        lines.append('| ' + ' | '.join([
            case['name'], NAMES[side],
            f'{number(row["generate_ms"])} ({_thousands(row["generate_rate"])})'
            if row['generate_ms'] else '-',
            f'{number(row["update_ms"])} ({_thousands(row["update_rate"])})'
            if row['update_ms'] else '-',
            number(row['step_ms']) if side != 'ours_warm' else '-',
            number(row['start_s'], 2), number(row['compile_s'], 2),
            number(row['peak_mb']),
            '-'.join(f'{x:.1f}' for x in row['load'])]) + ' |')
  lines += ['', '| case | what | ratio | median (range) | best / best '
            '| rounds |', '| --- | --- | --- | ---: | ---: | ---: |']
  for row in comparisons(result['cases'], result['runs']):
    what = {'peak_mb': 'peak memory', 'start_s': 'first step'}.get(
        row['measure'], MEASURES.get(row['measure']))
    lines.append('| ' + ' | '.join([
        row['case'], what, f'{NAMES[row["other"]]} / {NAMES[row["ours"]]}',
        f'**{row["ratio"]:.2f}** ({row["least"]:.2f}-{row["most"]:.2f})',
        f'{row["best"]:.2f}', str(row['rounds'])]) + ' |')
  return '\n'.join(lines + _not_run(result))


def _rounds(runs):
  count = max((run['round'] + 1 for run in runs), default=0)
  return f'{count} round' + 's' * (count != 1)


def _not_run(result):
  """What there is no number of, or none that can be compared, and why."""
  lines = [f'* {where}: {why}' for where, why in sorted(
      result['failed'].items())]
  for case in result['cases']:
    sizes = {run.get('parameters') for run in result['runs']
             if run['case'] == case['name']}
    if len(sizes) > 1:
      lines.append(f'* {case["name"]}: the decoders differ, they have '
                   f'{sorted(map(str, sizes))} parameters')
  return ['', 'Could not run, or not alike:', '', *lines] if lines else []
