"""DPO and its relatives on tabular preference data, against the optimum.

    python experiments/figures/preferences.py [--fast]

Four prompts are bandits with 8 answers whose rewards r are known. Pairs of
answers are drawn from the reference policy and one is preferred with
probability σ(r − r′); 20% of the labels are flipped in a second set, and in a
third the better answer always wins and there are few pairs. All methods see
the same pairs, take all of them in every step of the same optimizer (equal ones
as one with their number for its weight), and are compared with
π* ∝ π_ref·exp(r/β).
"""

from __future__ import annotations

import pathlib
import sys

if __name__ == '__main__':
  sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import jax
import jax.numpy as jnp
from matplotlib import ticker
import numpy as np
import optax

from experiments.figures import beds, drawing, figure, verdict
from policyopt import credit, methods, types
from policyopt.envs import exact
from policyopt.training.credit import init_credit

METHODS = ('dpo', 'kto', 'simpo', 'orpo')
_PROMPTS, _ACTIONS, _BETA, _FLIPPED = 4, 8, 0.5, 0.2
_ARMS = {
    'DPO': lambda: methods.dpo(beta=_BETA),
    'IPO': lambda: methods.dpo(kind='ipo', beta=_BETA),
    'cDPO': lambda: methods.dpo(beta=_BETA, label_smoothing=_FLIPPED),
    'robust DPO': lambda: methods.dpo(
        kind='robust', beta=_BETA, label_smoothing=_FLIPPED),
    'KTO': lambda: methods.kto(beta=_BETA),
    'SimPO': methods.simpo,
    'ORPO': methods.orpo}
# Pairs of a prompt in each set of data, of a whole run, and who learns there.
_PAIRS = {'clean': 8192, 'flipped': 8192, 'certain': 32}
_ALSO_CERTAIN = ('DPO', 'IPO', 'cDPO')
_FAST = ('DPO', 'IPO', 'cDPO', 'robust DPO')


def _last(data, key, name):
  return lambda records: records[data][name][key][:, -1]


def _closer(data, than, name):
  """ln KL(π* ‖ π) of an arm minus that of another, at the end: [S]."""
  return lambda records: (
      np.log(_last(data, 'gap', than)(records))
      - np.log(_last(data, 'gap', name)(records)))


CLAIMS = (
    verdict.Claim(
        "DPO's optimum is π_ref·exp(r/β).",
        'ln(KL(π* ‖ π_ref) / KL(π* ‖ π)) after training on clean pairs; it '
        'must be more than ln 10, nine tenths of the way.', 'nats',
        lambda r: np.log(r['start'] / _last('clean', 'gap', 'DPO')(r)),
        at_least=float(np.log(10))),
    verdict.Claim(
        'IPO stays near the reference where preferences are certain, and DPO '
        'does not.',
        'KL(π ‖ π_ref) after training on certain pairs: DPO minus IPO.',
        'nats', lambda r: _last('certain', 'away', 'DPO')(r)
        - _last('certain', 'away', 'IPO')(r)),
    verdict.Claim(
        'With flipped labels cDPO comes nearer to the optimum than DPO.',
        'ln KL(π* ‖ π) after training on pairs of which 20% are flipped: DPO '
        'minus cDPO, which knows the 20%.', 'nats',
        _closer('flipped', 'DPO', 'cDPO')),
    verdict.Claim(
        'With flipped labels robust DPO comes nearer to the optimum than DPO.',
        'The same, DPO minus robust DPO.', 'nats',
        _closer('flipped', 'DPO', 'robust DPO')),
    verdict.Claim(
        'Every one of these methods learns what is preferred.',
        'Chance that a response is preferred to one of the reference, after '
        'training on clean pairs, minus 1/2: the least of all methods.', '',
        lambda r: np.min([_last('clean', 'win', name)(r) - 0.5
                          for name in r['clean']], axis=0)),
)


def run(fast: bool = False) -> dict:
  """Trains every arm on every set of pairs.

  Args:
    fast: fewer seeds, steps and pairs.

  Returns:
    data -> arm -> 'gap', 'away', 'win' [S, points]; 'start', KL(π* ‖ π_ref);
    'step' [points].
  """
  count, steps, share = (3, 40, 8) if fast else (16, 300, 1)
  apart = steps // 20
  world = _world()
  records = {data: {} for data in _PAIRS}
  for name, make in _ARMS.items():
    if fast and name not in _FAST:
      continue
    found = _fits(world, make(), ('clean', 'flipped'), share, count, steps)
    if name in _ALSO_CERTAIN:
      found |= _fits(world, make(), ('certain',), share, count, steps)
    for data, seen in found.items():
      records[data][name] = {
          key: x[:, ::apart] for key, x in seen.items()}
  return records | dict(
      start=np.asarray(_watch(world, world.reference)['gap']),
      step=np.arange(0, steps + 1, apart))


def _fits(world, method, sets, share, count, steps):
  """What is seen on sets of as many pairs each, [S, steps + 1]."""
  pairs = _PAIRS[sets[0]] // share

  def one(key):
    counts = jnp.stack([_pairs(world, key, data, pairs) for data in sets])
    return jax.lax.map(
        lambda counts: _fit(world, method, counts, steps), counts)

  seen = jax.jit(jax.vmap(one))(beds.seeds(count))
  return {data: {key: np.asarray(x[:, place]) for key, x in seen.items()}
          for place, data in enumerate(sets)}


def _world() -> beds.World:
  keys = jax.random.split(jax.random.key(0), 2)
  return beds.World(
      exact.make_bed(_ACTIONS, 1),
      jax.random.normal(keys[0], (_PROMPTS, _ACTIONS)),
      0.5 * jax.random.normal(keys[1], (_PROMPTS, 1, _ACTIONS)))


def _pairs(world, key, data, pairs):
  """How often i was preferred to j, f32[Q, A, A]."""
  drawn, judged, turned = jax.random.split(key, 3)
  shape = (2, pairs, _PROMPTS)
  first, second = jax.random.categorical(
      drawn, world.reference[:, 0], shape=shape)
  prompt = jnp.broadcast_to(jnp.arange(_PROMPTS)[None], shape[1:])
  gap = world.reward[prompt, first] - world.reward[prompt, second]
  wins = jax.random.uniform(judged, gap.shape) < jax.nn.sigmoid(gap)
  if data == 'certain':
    # Equal answers tell nothing, whichever is called the better one.
    wins = gap > 0
  if data == 'flipped':
    wins ^= jax.random.uniform(turned, gap.shape) < _FLIPPED
  return jnp.zeros((_PROMPTS, _ACTIONS, _ACTIONS)).at[
      prompt, jnp.where(wins, first, second),
      jnp.where(wins, second, first)].add(1.)


def _every_pair(world, counts):
  """Every pair of answers once: the preferred one earns 1, the other 0."""
  each = jnp.meshgrid(*map(jnp.arange, counts.shape), indexing='ij')
  prompt, better, worse = (x.reshape(-1) for x in each)
  rows = lambda one, other: jnp.stack([one, other], axis=1).reshape(-1)
  index, prompt = rows(better, worse), rows(prompt, prompt)
  group = jnp.arange(len(index), dtype=jnp.int32) // 2
  ref = jax.nn.log_softmax(world.reference[:, 0])[prompt, index][:, None]
  share = counts.reshape(-1) / counts.mean()
  return types.Rollout(
      tokens=index[:, None].astype(jnp.int32),
      mask=jnp.ones((len(index), 1), bool), log_probs=ref, group=group,
      rewards={'accuracy': rows(
          jnp.ones(counts.size), jnp.zeros(counts.size))[:, None]},
      extras=dict(ref_log_probs=ref, old_log_probs=ref, sequence=index,
                  prompt=prompt, share=rows(share, share)))


def _fit(world, method, counts, steps):
  """What is seen before each step and after the last, [steps + 1]."""
  rule, rollout = optax.adam(0.05), _every_pair(world, counts)
  method = method._replace(weights=credit.chain(
      method.weights, credit.stateless(
          lambda x, rollout: x * rollout.extras['share'][:, None])))

  def step(carry, _):
    logits, moments = carry
    ascent, _ = beds.gradient(
        world, method, init_credit(method), logits, rollout)
    change, moments = rule.update(-ascent, moments, logits)
    return (optax.apply_updates(logits, change), moments), _watch(
        world, logits)

  start = world.reference
  (logits, _), seen = jax.lax.scan(
      step, (start, rule.init(start)), None, length=steps)
  return jax.tree.map(lambda x, last: jnp.concatenate([x, last[None]]),
                      seen, _watch(world, logits))


def _watch(world, logits):
  now, ref = (jax.nn.log_softmax(x[:, 0]) for x in (logits, world.reference))
  best = jax.nn.log_softmax(ref + world.reward / _BETA)
  distance = lambda p, q: (jnp.exp(p) * (p - q)).sum(1).mean()
  beats = jax.nn.sigmoid(
      world.reward[:, :, None] - world.reward[:, None, :])
  return dict(
      gap=distance(best, now), away=distance(now, ref),
      win=jnp.einsum('qi,qij,qj->q', jnp.exp(now), beats,
                     jnp.exp(ref)).mean())


def plot(records: dict):
  """Distance to the optimum and from the reference, and win rates."""
  made, axes = drawing.panels(4, columns=4, width=3.3, height=3.0)
  for axis, data, key, title, label in zip(
      axes, ('clean', 'flipped', 'certain'), ('gap', 'gap', 'away'),
      ('Clean labels', '20% of labels flipped', 'Certain preferences'),
      ('KL(π* ‖ π), nats', 'KL(π* ‖ π), nats', 'KL(π ‖ π_ref), nats')):
    drawing.curves(axis, {
        name: arm[key] for name, arm in records[data].items()},
                   x=records['step'])
    drawing.dress(axis, title, 'step', label)
  for axis in axes[:2]:
    axis.set_yscale('log')
    axis.yaxis.set_minor_formatter(ticker.NullFormatter())
  drawing.points(axes[3], {
      name: arm['win'][:, -1] for name, arm in records['clean'].items()})
  drawing.dress(axes[3], 'Win rate, clean labels',
                'chance to beat the reference', '')
  drawing.legend(made, axes[0], columns=7)
  return made


if __name__ == '__main__':
  figure.main(__name__)
