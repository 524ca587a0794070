"""The arrays that both sides of the benchmark are given, by name.

Every array comes from a generator of its own, so that it does not matter which
others are asked for; [B, T] arrays are float32, masks bool. Responses are
between a quarter of T and T tokens long, eight to a group, groups in a mixed
order.
"""

from __future__ import annotations

from collections.abc import Callable
import zlib

import numpy as np

GROUP_SIZE = 8
_BUILDERS: dict[str, Callable] = {}


class Inputs:
  """Arrays of one size, each made when it is first asked for."""

  def __init__(self, batch: int, length: int, seed: int = 0):
    self.batch, self.length, self._seed = batch, length, seed
    self._made: dict[str, np.ndarray] = {}

  def __getitem__(self, name: str) -> np.ndarray:
    if name not in self._made:
      rng = np.random.default_rng([self._seed, zlib.crc32(name.encode())])
      self._made[name] = _BUILDERS[name](self, rng)
    return self._made[name]

  def normal(self, rng, scale: float = 1.) -> np.ndarray:
    """f32[B, T]."""
    x = rng.standard_normal((self.batch, self.length), np.float32)
    x *= np.float32(scale)
    return x

  def moved(self, name: str, rng, scale: float) -> np.ndarray:
    """Log-probabilities a little away from those of that name."""
    x = self.normal(rng, scale)
    x += self[name]
    return np.minimum(x, 0, out=x)

  def on_last(self, rows: np.ndarray) -> np.ndarray:
    """f32[B, T] with one number per row on its last chosen token."""
    placed = np.zeros((self.batch, self.length), np.float32)
    placed[np.arange(self.batch), self['lengths'] - 1] = rows
    return placed


def _input(build):
  _BUILDERS[build.__name__.strip('_')] = build
  return build


@_input
def lengths(x, rng):
  """i32[B], chosen tokens of each row."""
  low = max(1, x.length // 4)
  return rng.integers(low, x.length + 1, x.batch).astype(np.int32)


@_input
def mask(x, rng):
  """bool[B, T], chosen tokens, from the first column on."""
  del rng
  return np.arange(x.length)[None] < x['lengths'][:, None]


@_input
def holes(x, rng):
  """The mask without an eighth of its tokens, as observations would be."""
  kept = rng.random((x.batch, x.length), np.float32) > .125
  kept[np.arange(x.batch), x['lengths'] - 1] = True
  return kept & x['mask']


@_input
def ids(x, rng):
  """i32[B], the group of each row."""
  return rng.permutation(np.arange(x.batch) // GROUP_SIZE).astype(np.int32)


@_input
def scores(x, rng):
  """f32[B], what each row earned: no two the same."""
  return rng.random(x.batch, np.float32)


@_input
def correct(x, rng):
  """f32[B], 0 or 1."""
  return rng.integers(0, 2, x.batch).astype(np.float32)


@_input
def greedy(x, rng):
  """f32[B], what the greedy response to the same prompt earned."""
  return rng.random(x.batch, np.float32)


@_input
def channels(x, rng):
  """f32[B, 3], three rewards of each row."""
  return rng.random((x.batch, 3), np.float32)


@_input
def answer(x, rng):
  """i32[B], which answer each row gave."""
  return rng.integers(0, 4, x.batch).astype(np.int32)


@_input
def rewards(x, rng):
  """f32[B, T], the scores on the last chosen tokens."""
  del rng
  return x.on_last(x['scores'])


@_input
def right(x, rng):
  """f32[B, T], 0 or 1 on the last chosen tokens."""
  del rng
  return x.on_last(x['correct'])


@_input
def old(x, rng):
  """f32[B, T], log-probabilities of the policy before its update."""
  return -np.abs(x.normal(rng))


@_input
def log_probs(x, rng):
  """f32[B, T], of the policy being trained."""
  return x.moved('old', rng, .15)


@_input
def sampled(x, rng):
  """f32[B, T], of the sampler, which rounds apart from the learner."""
  return x.moved('old', rng, .01)


@_input
def ref(x, rng):
  """f32[B, T], of the reference model."""
  return x.moved('old', rng, .3)


@_input
def drift(x, rng):
  """f32[B, T], log-ratios of the learner to the sampler.

  Their mean is not 0, which nothing could be compared with.
  """
  return x.normal(rng, .01) + np.float32(1e-4)


@_input
def advantages(x, rng):
  """f32[B, T]."""
  return x.normal(rng)


@_input
def row_advantages(x, rng):
  """f32[B, T], the same number on every token of a row."""
  rows = rng.standard_normal((x.batch, 1), np.float32)
  return np.ascontiguousarray(np.broadcast_to(rows, (x.batch, x.length)))


@_input
def values(x, rng):
  """f32[B, T], of a critic before its update."""
  return x.normal(rng)


@_input
def new_values(x, rng):
  """f32[B, T], of the critic being trained."""
  return x['values'] + x.normal(rng, .3)


@_input
def returns(x, rng):
  """f32[B, T], what the critic regresses to."""
  return x['values'] + x.normal(rng, .5)


@_input
def entropy(x, rng):
  """f32[B, T], in nats."""
  return np.abs(x.normal(rng))


@_input
def squares(x, rng):
  """f32[B, T], Σᵥ π(v)², at least the square of the chosen probability."""
  chosen = np.exp(2 * x['old'])
  return chosen + rng.random(chosen.shape, np.float32) * (1 - chosen)


@_input
def weights(x, rng):
  """f32[B, T], importance weights."""
  return np.exp(x.normal(rng, .2))


@_input
def logits(x, rng):
  """f32[B, V], a vocabulary of V = T for each row."""
  return x.normal(rng)


@_input
def token(x, rng):
  """i32[B], one of the vocabulary of V = T for each row."""
  return rng.integers(0, x.length, x.batch).astype(np.int32)


def _sums(x, rng):
  return -10 - 5 * np.abs(rng.standard_normal(x.batch, np.float32))


# f32[B], sums and means of log-probabilities of a pair's responses.
for _name in ('chosen', 'rejected', 'ref_chosen', 'ref_rejected'):
  _BUILDERS[_name] = _sums
  _BUILDERS[f'{_name}_mean'] = lambda x, rng: _sums(x, rng) / 20


@_input
def rate(x, rng):
  """f32[B], the learning rate."""
  del rng
  return np.full(x.batch, 1e-6, np.float32)


@_input
def progress(x, rng):
  """f32[B], the fraction of the run that is done."""
  del rng
  return np.full(x.batch, .25, np.float32)


@_input
def truncated(x, rng):
  """bool[B], rows that hit their length limit."""
  return rng.random(x.batch) < .1


@_input
def prompt(x, rng):
  """f32[B, T], log-probabilities of the prompts, which take no place here."""
  del rng
  return np.zeros((x.batch, x.length), np.float32)
