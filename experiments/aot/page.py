"""Writes the table of results into the page of this folder.

  python experiments/aot/page.py

Reads what `experiments/compile_for_tpu.py --json=experiments/results/aot/...`
has written.
"""

from __future__ import annotations

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
if __name__ == '__main__':
  # As `experiments.aot.X`, and not by their names in this folder.
  sys.path[0] = str(HERE.parents[1])

from experiments.aot.analysis import TEXT  # noqa: E402

GIB = 2**30
RESULTS = HERE.parent / 'results' / 'aot'
BEGIN, END = '<!-- results: begin -->', '<!-- results: end -->'
_NAMES = ('update', 'score', 'reshard', 'sample', 'prefill', 'decode')


def table(results: dict[str, dict]) -> str:
  """The results as Markdown.

  Args:
    results: name -> what `--json` wrote.

  Returns:
    Two tables, memory of every program and the update's cost; the commands;
    and what sweeps chose.
  """
  runs = {name: found for name, found in sorted(results.items())
          if 'programs' in found}
  lines = [
      'GiB of one device while each program runs: its own, and in brackets '
      'with what else of the run lies there.', '',
      '| run | mesh | rows a shard | limit | ' + ' | '.join(_NAMES)
      + ' | fits |',
      '|---' * (5 + len(_NAMES)) + '|']
  for name, found in runs.items():
    programs = {program['name']: program for program in found['programs']}
    limit = found['programs'][0]['limit'] / GIB
    lines.append(
        f'| {name} | {_mesh(found)} | {_rows(found):g} | {limit:.2f} | '
        + ' | '.join(_memory(programs.get(each)) for each in _NAMES)
        + f' | {"yes" if found["fits"] else "**no**"} |')
  lines += ['', _SPEED, '',
            '| run | PFLOPs | HBM TB | sent GiB | seconds | from | tokens/s '
            'and chip | copy: sent GiB | seconds | cache GiB | temporaries of '
            'decode |', '|---' * 11 + '|']
  for name, found in runs.items():
    programs = {program['name']: program for program in found['programs']}
    lines.append(f'| {name} | ' + ' | '.join(_update(
        programs.get('update'), found['chips']) + _copy(
            programs.get('reshard')) + _decode(
                programs.get('decode'))) + ' |')
  lines += ['', 'Made with `python experiments/compile_for_tpu.py` and', '',
            '```']
  lines += [f'{found["command"]}  # {name}'
            for name, found in sorted(results.items())] + ['```']
  for name, found in sorted(results.items()):
    if 'reasons' in found:
      lines += ['', f'{name}:', '', '```', *found['reasons'], '```']
  return '\n'.join(lines)


_SPEED = (
    'The update of one device: FLOPs of matrix products, HBM traffic, bytes '
    'sent, and seconds from "all overlaps" to "nothing does"; the same of the '
    "copy of the weights for the sampler, once a step; then the decode loop's "
    'cache, and its temporaries as a share of it. A star marks what is counted '
    'by hand, because the compiler cannot print the program.')


def _mesh(found) -> str:
  shape = lambda mesh: ' x '.join(
      f'{name} {size}' for name, size in mesh.items() if size > 1)
  own = found.get('rollout')
  sampler = f'; sampler: {shape(own["mesh"])}, {own["dtype"]}' if own else ''
  return shape(found['mesh']) + sampler


def _rows(found) -> float:
  shards = found['mesh']['data'] * found['mesh']['fsdp']
  pieces = (found['batching']['minibatches']
            * found['batching']['microbatches'])
  return found['rows'] / pieces / shards


def _memory(program) -> str:
  if program is None:
    return '-'
  if program['memory'] is None:
    return f'refused: {program["needed"] / GIB:.2f}'
  found = program['memory']
  return f'{found["live"] / GIB:.2f} ({found["total"] / GIB:.2f})'


def _update(program, chips) -> list[str]:
  if program is None or program['memory'] is None:
    return ['-'] * 6
  sent, time = _sent(program), program['estimate']
  fast, slow = (program['tokens'] / time[kind] / chips
                for kind in ('bound', 'apart'))
  hand = '' if program['source'] == TEXT else '*'
  return [f'{program["flops"] / 1e15:.2f}',
          f'{program["traffic"] / 1e12:.2f}{hand}', f'{sent / GIB:.0f}{hand}',
          f'{time["bound"]:.2f} to {time["apart"]:.2f}',
          time['limit'], f'{slow:,.0f} to {fast:,.0f}']


def _copy(program) -> list[str]:
  if program is None or program['memory'] is None:
    return ['-', '-']
  sent, time = _sent(program), program['estimate']
  hand = '' if program['source'] == TEXT else '*'
  return [f'{sent / GIB:.2f}{hand}',
          f'{time["bound"]:.3f} to {time["apart"]:.3f}']


def _sent(program) -> float:
  return sum(c['moved'] for c in program['collectives'])


def _decode(program) -> list[str]:
  if program is None or program['memory'] is None:
    return ['-', '-']
  share = program['memory']['temporaries'] / program['cache']
  return [f'{program["cache"] / GIB:.2f}', f'{share:.1%}']


def main():
  results = {path.stem: json.loads(path.read_text())
             for path in sorted(RESULTS.glob('*.json'))}
  page = HERE / 'README.md'
  before, _, rest = page.read_text().partition(BEGIN)
  _, _, after = rest.partition(END)
  page.write_text(f'{before}{BEGIN}\n{table(results)}\n{END}{after}')


if __name__ == '__main__':
  main()
