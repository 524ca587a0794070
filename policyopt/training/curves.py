"""Learning curves of runs, drawn from their metrics.jsonl."""

from __future__ import annotations

from collections.abc import Sequence
import os
import pathlib
from typing import NamedTuple

from policyopt.training import metrics


class Panel(NamedTuple):
  """One small chart.

  Attributes:
    title: above it.
    label: of the vertical axis, with the unit.
    names: of the metric; the first that a run has is drawn.
    limits: of the vertical axis, or None for those of the data.
  """
  title: str
  label: str
  names: tuple[str, ...]
  limits: tuple[float, float] | None = None


PANELS = (
    Panel('Reward', 'mean reward per response', ('reward',)),
    Panel('Held-out accuracy', 'pass@1', ('eval/pass@1',), (0., 1.)),
    Panel('Response length', 'tokens', ('response_length',)),
    Panel('Entropy', 'nats per token', ('entropy/sampled', 'entropy')),
    Panel('Groups without signal', 'fraction of groups',
          ('groups/zero_signal',), (0., 1.)),
    Panel('Sampler against learner', 'nats per token', ('log_prob_gap',)),
)
# Okabe and Ito's colours, which colour-blind readers tell apart; the line
# style changes when they have all been used.
_COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9',
           '#000000')
_STYLES = ('-', '--', ':', '-.')
_SMOOTH_FROM = 30


def plot(runs: Sequence[str | os.PathLike], out: str | os.PathLike):
  """Draws the learning curves of runs, one panel per metric, into a file.

  Panels that no run has a number for are left out. From 30 points on, a
  moving average is drawn over the pale raw curve.

  Args:
    runs: folders of runs (or their metrics.jsonl); several are overlaid.
    out: file to write, .png; its folder is made when missing.

  Raises:
    FileNotFoundError: if a run has no metrics.jsonl.
    ValueError: if there is no run, or one has no row that can be drawn.
  """
  if not runs:
    raise ValueError('no run is given; name at least one folder')
  rows = [_read(run) for run in runs]
  panels = [panel for panel in PANELS
            if any(_name(panel, run_rows) for run_rows in rows)]
  figure, axes = _grid(len(panels))
  for panel, axis in zip(panels, axes):
    for number, run_rows in enumerate(rows):
      _draw(axis, panel, run_rows, number)
    _dress(axis, panel)
  labels = _labels(runs)
  if len(runs) > 1:
    handles = [_line(axes[0], number, label)
               for number, label in enumerate(labels)]
    figure.legend(handles=handles, loc='outside lower center', frameon=False,
                  ncols=min(len(runs), 4))
  else:
    figure.suptitle(labels[0], fontsize=11, x=0.01, ha='left')
  out = pathlib.Path(out)
  out.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(out, dpi=150)


def _read(run):
  """The rows of a run; an error names the run that has none to draw."""
  rows = metrics.read(run)
  if not any(_name(panel, rows) for panel in PANELS):
    wanted = ', '.join(panel.names[0] for panel in PANELS)
    raise ValueError(
        f'{run} has {len(rows)} rows in {metrics.METRICS} and none with a '
        f'number for any of: {wanted}')
  return rows


def _name(panel, rows):
  """The panel's first metric that has a number in some row, or None."""
  for name in panel.names:
    if any(row.get(name) is not None for row in rows):
      return name
  return None


def _labels(runs):
  """The shortest endings of the runs' paths that tell them apart."""
  paths = []
  for run in runs:
    path = pathlib.Path(run).absolute()
    path = path.parent if path.suffix == '.jsonl' else path
    paths.append([part for part in path.parts if part != os.sep])
  depth = 1
  while depth < max(map(len, paths)) and (
      len({tuple(p[-depth:]) for p in paths}) < len({tuple(p) for p in paths})):
    depth += 1
  return ['/'.join(path[-depth:]) for path in paths]


def _grid(count):
  """A figure of its own, untouched by pyplot, with `count` axes."""
  # Imported here: a run that draws nothing needs no matplotlib.
  from matplotlib.backends import backend_agg
  from matplotlib.figure import Figure

  columns = min(count, 3)
  lines = -(-count // columns)
  figure = Figure(figsize=(3.4 * columns, 2.5 * lines + 0.4),
                  layout='constrained')
  backend_agg.FigureCanvasAgg(figure)
  axes = figure.subplots(lines, columns, squeeze=False).ravel()
  for axis in axes[count:]:
    axis.remove()
  return figure, axes[:count]


def _line(axis, number, label=None, points=((), ()), **style):
  """A line in the colour and style of run `number`."""
  line, = axis.plot(
      *points, label=label, color=_COLORS[number % len(_COLORS)],
      linestyle=_STYLES[number // len(_COLORS) % len(_STYLES)],
      **{'linewidth': 1.6, **style})
  return line


def _draw(axis, panel, rows, number):
  """One run in one panel."""
  name = _name(panel, rows)
  if name is None:
    return
  points = [(row['step'], row[name]) for row in rows
            if row.get(name) is not None]
  steps, values = zip(*points)
  marker = {'marker': 'o', 'markersize': 3} if len(points) < 12 else {}
  if len(points) < _SMOOTH_FROM:
    _line(axis, number, points=(steps, values), **marker)
    return
  _line(axis, number, points=(steps, values), alpha=0.25, linewidth=0.8)
  _line(axis, number, points=(steps, _smooth(values, len(points) // 15)))


def _smooth(values, half):
  """Moving average over `half` points to each side, fewer at the ends."""
  total = [0.]
  for value in values:
    total.append(total[-1] + value)
  ends = [(max(i - half, 0), min(i + half + 1, len(values)))
          for i in range(len(values))]
  return [(total[end] - total[start]) / (end - start) for start, end in ends]


def _dress(axis, panel):
  """Titles, limits and as little ink as possible."""
  axis.set_title(panel.title, fontsize=10, loc='left', fontweight='bold')
  axis.set_xlabel('step', fontsize=9)
  axis.set_ylabel(panel.label, fontsize=9)
  axis.tick_params(labelsize=8)
  axis.ticklabel_format(axis='y', scilimits=(-3, 4))
  axis.yaxis.get_offset_text().set_fontsize(8)
  axis.xaxis.get_major_locator().set_params(integer=True, nbins=6)
  axis.spines[['top', 'right']].set_visible(False)
  axis.grid(True, alpha=0.25, linewidth=0.6)
  if panel.limits is not None:
    low, high = panel.limits
    margin = 0.03 * (high - low)
    axis.set_ylim(low - margin, high + margin)
