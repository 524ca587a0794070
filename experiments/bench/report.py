"""Prints the rows of the benchmark, and writes them into its page."""

from __future__ import annotations

import pathlib

BEGIN, END = '<!-- kernels: begin -->', '<!-- kernels: end -->'
_HEAD = f'{"kernel":32}{"pass":9}{"ours ms":>10}{"peer ms":>11}{"ratio":>9}' \
    f'{"compile s":>11}  check'
_PASS = {'forward': 'fwd', 'backward': 'fwd+bwd'}


def head() -> str:
  """The line above the rows."""
  return _HEAD


def line(row: dict) -> str:
  """A row as a line of the table on the terminal."""
  check = row['check']
  if row['difference'] is not None:
    check = f'{check} {row["difference"]:.0e}'
  return (f'{row["name"]:32}{_PASS[row["direction"]]:9}'
          f'{number(row["ours_ms"]):>10}{number(row["peer_ms"]):>11}'
          f'{ratio(row["ratio"]):>9}{row["compile_s"]:>11.2f}  {check}')


def number(x: float | None) -> str:
  """Three digits that mean something, or a dash."""
  if x is None:
    return '-'
  return f'{x:.0f}' if x >= 100 else f'{x:.3g}'


def ratio(x: float | None) -> str:
  """Ours over theirs, or a dash."""
  return '-' if x is None else f'{x:.3f}' if x < 10 else f'{x:.0f}'


def growth_line(name: str, grown: dict) -> str:
  """The exponents of a case as a line."""
  parts = [f'{axis}^{found["exponent"]:.2f}' + ' STEEP' * found['steep']
           for axis, found in grown.items()]
  return f'{name:32}' + ''.join(f'{part:>14}' for part in parts)


def markdown(result: dict) -> str:
  """The page's tables.

  Args:
    result: as kernels.json holds it.

  Returns:
    Markdown.
  """
  machine, size = result['machine'], result['size']
  facts = ', '.join(f'{name} {value}' for name, value in machine.items())
  lines = [
      f'B = {size["batch"]}, T = {size["length"]}, medians of '
      f'{result["repeats"]}; {facts}.', '',
      '| kernel | pass | ours, ms | peer, ms | ours / peer | t ~ Bᵏ | t ~ Tᵏ '
      '| peer |',
      '| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |']
  for row in result['rows']:
    grown = result['growth'].get(row['name'], {})
    # Growth is that of the longer pass.
    slopes = [f'{grown[axis]["exponent"]:.2f}' if axis in grown
              and grown[axis]['direction'] == row['direction'] else ''
              for axis in 'BT']
    lines.append('| ' + ' | '.join([
        row['name'], _PASS[row['direction']], number(row['ours_ms']),
        number(row['peer_ms']), ratio(row['ratio']), *slopes,
        f'`{row["peer"]}`' if row['peer'] else 'no peer']) + ' |')
  return '\n'.join(lines)


def step_markdown(result: dict) -> str:
  """The table of the cases that are as large as in a step.

  Args:
    result: as `kernels.run_step` returns it.

  Returns:
    Markdown.
  """
  facts = ', '.join(f'{name} {x}' for name, x in result['machine'].items())
  lines = [
      f'Medians of {result["repeats"]}; {facts}.', '',
      '| kernel | B x T | pass | ours, ms | peer, ms | peer / ours | peer |',
      '| --- | ---: | --- | ---: | ---: | ---: | --- |']
  for row in result['rows']:
    times = None if row['ratio'] is None else 1 / row['ratio']
    lines.append('| ' + ' | '.join([
        row['name'], f'{row["batch"]} x {row["length"]}',
        _PASS[row['direction']], number(row['ours_ms']),
        number(row['peer_ms']), '-' if times is None else f'{times:.1f}',
        f'`{row["peer"]}`' if row['peer'] else 'no peer']) + ' |')
  return '\n'.join(lines)


def write_page(path: str | pathlib.Path, result: dict) -> None:
  """Puts the tables between the markers of a page.

  Args:
    path: of the page.
    result: as kernels.json holds it.

  Raises:
    ValueError: the page lacks the markers.
  """
  if 'size' in result:
    put(path, 'kernels', markdown(result))
  else:
    put(path, 'kernels of a step', step_markdown(result))


def put(path: str | pathlib.Path, name: str, table: str) -> None:
  """Puts a table between the markers of that name on a page.

  Args:
    path: of the page.
    name: of the table.
    table: Markdown.

  Raises:
    ValueError: the page lacks the markers.
  """
  path = pathlib.Path(path)
  first, last = f'<!-- {name}: begin -->', f'<!-- {name}: end -->'
  before, begin, rest = path.read_text('utf-8').partition(first)
  _, end, after = rest.partition(last)
  if not begin or not end:
    raise ValueError(f'{path} needs the markers {first} and {last}')
  path.write_text(f'{before}{first}\n{table}\n{last}{after}', 'utf-8')
