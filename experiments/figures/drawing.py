"""How every figure looks: one palette, intervals, as little ink as possible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.backends import backend_agg
from matplotlib.figure import Figure
import numpy as np

from experiments.figures import verdict

# Okabe and Ito's colours, which the colour-blind tell apart too.
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9',
          '#000000', '#F0E442')
STYLES = ('-', '--', '-.', ':')


def panels(count: int, columns: int = 3, width: float = 3.6,
           height: float = 2.8):
  """An empty figure with axes from left to right.

  Args:
    count: of axes.
    columns: at most so many in a line.
    width: of one, in inches.
    height: of one, in inches.

  Returns:
    (Figure, array of axes).
  """
  columns = min(count, columns)
  lines = -(-count // columns)
  figure = Figure(figsize=(width * columns, height * lines + 0.5),
                  layout='constrained')
  backend_agg.FigureCanvasAgg(figure)
  axes = figure.subplots(lines, columns, squeeze=False).ravel()
  for axis in axes[count:]:
    axis.remove()
  return figure, axes[:count]


def dress(axis, title: str, x: str, y: str) -> None:
  """Title and labels; units belong into the labels."""
  axis.set_title(title, fontsize=10, loc='left', fontweight='bold')
  axis.set_xlabel(x, fontsize=9)
  axis.set_ylabel(y, fontsize=9)
  axis.tick_params(labelsize=8)
  axis.spines[['top', 'right']].set_visible(False)
  axis.grid(True, alpha=0.25, linewidth=0.6)


def curves(axis, series: Mapping[str, np.ndarray], *, x=None,
           bins: int = 25, first: int = 0) -> None:
  """Means over seeds with their 95% intervals, one line an arm.

  Args:
    axis: to draw on.
    series: arm -> [S, steps]; NaN where a step has nothing to say.
    x: [steps]; None: 1, 2, ...
    bins: neighbouring steps are averaged until so many points are left.
    first: number of the first arm's colour.
  """
  for number, (name, values) in enumerate(series.items(), first):
    values = np.asarray(values, np.float64)
    steps = values.shape[1]
    places = np.arange(1, steps + 1) if x is None else np.asarray(x)
    parts = np.array_split(np.arange(steps), min(bins, steps))
    with np.errstate(invalid='ignore'):
      points = np.stack([_mean(values[:, part]) for part in parts], axis=1)
    where = np.array([places[part].mean() for part in parts])
    ends = np.array([_interval(point) for point in points.T]).T
    color = COLORS[number % len(COLORS)]
    axis.plot(where, ends[0], color=color, linewidth=1.6, label=name,
              linestyle=STYLES[number // len(COLORS) % len(STYLES)])
    axis.fill_between(where, ends[1], ends[2], color=color, alpha=0.18,
                      linewidth=0)


def points(axis, series: Mapping[str, Sequence[float]], *,
           horizontal: bool = True) -> None:
  """A value for each arm with its 95% interval over seeds.

  Args:
    axis: to draw on.
    series: arm -> [S].
    horizontal: whether arms stand below each other.
  """
  names = list(series)
  for number, name in enumerate(names):
    mean, low, high = _interval(np.asarray(series[name], np.float64))
    color = COLORS[number % len(COLORS)]
    error = [[mean - low], [high - mean]]
    if horizontal:
      axis.errorbar(mean, number, xerr=error, fmt='o', color=color, capsize=3)
    else:
      axis.errorbar(number, mean, yerr=error, fmt='o', color=color, capsize=3)
  if horizontal:
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
  else:
    axis.set_xticks(range(len(names)), names)
    axis.set_xlim(-0.5, len(names) - 0.5)


def learning(axes, arms: Mapping[str, Mapping], x, ks: Sequence[int]) -> None:
  """Success and entropy while training, and pass@k after it.

  Args:
    axes: three.
    arms: arm -> 'pass_at_k' [S, points, K], k = 1 first, and 'entropy'
      [S, points].
    x: [points], steps.
    ks: [K].
  """
  curves(axes[0], {name: arm['pass_at_k'][:, :, 0]
                   for name, arm in arms.items()}, x=x)
  dress(axes[0], 'Success', 'step', 'success rate')
  curves(axes[1], {name: arm['entropy'] for name, arm in arms.items()}, x=x)
  dress(axes[1], 'Entropy', 'step', 'of sequences, nats')
  curves(axes[2], {name: arm['pass_at_k'][:, -1]
                   for name, arm in arms.items()}, x=ks)
  axes[2].set_xscale('log', base=2)
  dress(axes[2], 'After training', 'samples k', 'pass@k')


def legend(figure, axis, columns: int = 4) -> None:
  """One legend under all panels, with the names of one of them."""
  handles, labels = axis.get_legend_handles_labels()
  figure.legend(handles, labels, loc='outside lower center', frameon=False,
                ncols=min(len(labels), columns), fontsize=9)


def _mean(values):
  """Over axis 1, of what is there; NaN where nothing is."""
  there = np.isfinite(values)
  return np.where(there, values, 0).sum(1) / there.sum(1)


def _interval(values):
  values = values[np.isfinite(values)]
  if len(values) < 2:
    value = values[0] if len(values) else np.nan
    return value, value, value
  return verdict.interval(values)
