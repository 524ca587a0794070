"""How the records of `estimators.py` are drawn."""

from __future__ import annotations

import numpy as np

from experiments.figures import drawing, theory
from experiments.figures.estimator_list import (
    EXACT,
    IN_LOSS,
    IN_REWARD,
    SAMPLES,
    STATED,
    UNBIASED,
)

_BLUE, _RED, _GREEN, _PINK, _ORANGE = drawing.COLORS[:5]
_RULES = {
    'RLOO': lambda k, count: ((count - k) / (count - 1), -k / (count - 1)),
    'Dr. GRPO': lambda k, count: (1 - k / count, -k / count),
    'GRPO': theory.by_std, 'MaxRL': theory.by_mean,
    'pass@k GRPO, no σ': theory.only_one}


def draw(records: dict):
  """Distances, biases, noise, difficulty weights, KL values and gradients."""
  made, axes = drawing.panels(6, width=4.2, height=4.5)
  advantage, kl = records['advantage'], records['kl']
  judged = [name for name in (*UNBIASED, *STATED) if name in advantage]
  others = [name for name, x in advantage.items() if 'z_all' not in x]
  color = {name: _BLUE for name in UNBIASED} | {
      name: _RED for name in STATED} | {name: '#777777' for name in others}
  _distances(axes[0], advantage, judged, color)
  drawing.dress(axes[0], 'Distance from what is stated',
                'z of all samples (bars: of the seeds), standard errors', '')
  _weights(axes[1], records)
  every = judged + others
  _dots(axes[2], every, [advantage[x]['bias'] for x in every], color)
  drawing.dress(axes[2], 'Bias for ∇J', '‖E[g] − ∇J‖ / ‖∇J‖', '')
  _dots(axes[3], every, [advantage[x]['noise'].mean() for x in every], color)
  drawing.dress(axes[3], 'Noise of a batch of 16', 'tr Var[g] / ‖E[g]‖²', '')
  axes[3].set_xlim(0, None)
  _values(axes[4], records['value'])
  names = (*EXACT, *IN_LOSS, *IN_REWARD)
  _dots(axes[5], names, [kl[x]['bias'] for x in names],
        {name: _BLUE for name in EXACT} | {name: _RED for name in IN_LOSS}
        | {name: _GREEN for name in IN_REWARD})
  drawing.dress(
      axes[5], 'Bias for ∇KL(π ‖ π_ref)', '‖E[g] − ∇KL‖ / ‖∇KL‖', '')
  return made


def _rows(axis, names, size=7):
  axis.set_yticks(range(len(names)), names)
  axis.set_ylim(len(names) - 0.5, -0.5)
  axis.tick_params(axis='y', labelsize=size)


def _distances(axis, found, names, color):
  for place, name in enumerate(names):
    seeds = found[name]['z']
    axis.plot([seeds.min(), seeds.max()], [place, place], color=color[name],
              linewidth=3, alpha=0.25)
    axis.plot(found[name]['z_all'], place, 'o', color=color[name],
              markersize=5)
  axis.axvline(4, color='black', linestyle='--', linewidth=1)
  _rows(axis, names)
  axis.tick_params(axis='y', labelsize=7)
  axis.plot([], [], 'o', color=_BLUE, label='stated: ∇J')
  axis.plot([], [], 'o', color=_RED, label='stated: other')
  axis.legend(fontsize=7, frameon=False, loc='lower right',
              handletextpad=0.1)
  axis.set_xlim(0, 6.5)


def _weights(axis, records):
  p = np.linspace(0.01, 0.99, 99)
  for place, (name, rule) in enumerate(_RULES.items()):
    shade = drawing.COLORS[place]
    axis.plot(p, [theory.weight(rule, x, SAMPLES) for x in p], color=shade,
              linewidth=1.4, label=name)
    scale = records['advantage'][name]['scale']
    axis.errorbar(
        records['success'], scale.mean(0), fmt='o', color=shade, capsize=2,
        yerr=2 * scale.std(0, ddof=1) / np.sqrt(len(scale)), markersize=4)
  axis.legend(fontsize=7, frameon=False)
  axis.set_ylim(-0.1, None)
  drawing.dress(axis, 'Weight of a prompt (lines: theory)',
                'success rate p of the prompt', 'w of E[g] = w(p)·∇p')


def _dots(axis, names, values, color):
  for place, (name, value) in enumerate(zip(names, values)):
    axis.plot(value, place, 'o', color=color[name], markersize=5)
  _rows(axis, names, 6.5 if len(names) > 20 else 7.5)


def _values(axis, found):
  names = list(found)
  for place, name in enumerate(names):
    ratio = found[name]['ratio']
    right = abs(ratio.mean() - 1) < 0.02
    axis.errorbar(
        ratio.mean(), place, fmt='o', color=_BLUE if right else _RED,
        capsize=3, xerr=2 * ratio.std(ddof=1) / np.sqrt(len(ratio)))
    axis.annotate(
        f'spread {found[name]["spread"].mean():.1f}·KL', (ratio.mean(), place),
        xytext=(0, 9), textcoords='offset points', fontsize=7, ha='center')
  axis.axvline(1, color='black', linestyle='--', linewidth=1)
  _rows(axis, names, 8)
  axis.set_ylim(len(names) - 0.5, -0.7)
  axis.set_xlim(0, None)
  drawing.dress(axis, 'KL estimates', 'mean / KL(π ‖ π_ref)', '')
