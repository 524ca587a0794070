"""Draws one token in each row, by Gumbel argmax."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from policyopt.ops import bits
from policyopt.ops.signals.entropy_scale import Heat, heated
from policyopt.rollouts import filters
from policyopt.rollouts.noise import gumbel
from policyopt.types import Array


@dataclasses.dataclass(frozen=True)
class SamplerConfig:
  """How tokens are drawn; hashable, so it can be a static argument.

  Attributes:
    temperature: the logits are divided by it; 0 takes the most likely token.
    top_k: keeps the k most likely tokens; 0 switches it off.
    top_p: keeps the smallest set with at least this mass; 1 switches it off.
    min_p: keeps tokens at least this fraction as likely as the most likely
      one; 0 switches it off.
    stop_tokens: ids that end a response; they belong to it.
    max_tokens: response tokens there is room for, a static shape.
    pad_id: fills the rows after the response.
    slots: rows that are decoded at a time; one that ends makes room for the
      next. 0, or as many as there are rows, decodes all at once.
    prefill_chunk: prompts that are read at a time while slots are refilled,
      a divisor of their number; 0 reads all of them first.
  """
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  min_p: float = 0.0
  stop_tokens: tuple[int, ...] = ()
  max_tokens: int = 64
  pad_id: int = 0
  slots: int = 0
  prefill_chunk: int = 0

  @property
  def truncates(self) -> bool:
    """Whether some tokens may be ruled out, so that `kept` must be recorded."""
    return (self.temperature == 0 or self.top_k > 0 or self.top_p < 1
            or self.min_p > 0)

  def validate(self, vocab_size: int) -> None:
    """Raises ValueError for a setting that makes no sense.

    Args:
      vocab_size: V of the model that is sampled from.

    Raises:
      ValueError: naming the setting, its value and the values it may have.

    Example:
      >>> SamplerConfig(top_p=0.9, stop_tokens=(257,)).validate(260)
    """
    def check(ok: bool, name: str, wanted: str) -> None:
      if not ok:
        raise ValueError(
            f'sampler.{name} is {getattr(self, name)!r}; it must be {wanted}')

    check(math.isfinite(self.temperature) and self.temperature >= 0,
          'temperature', 'a finite number, 0 (greedy) or more')
    check(isinstance(self.top_k, int) and self.top_k >= 0, 'top_k',
          'a whole number, 0 (off) or more')
    check(0 < self.top_p <= 1, 'top_p', 'in (0, 1], 1 being off')
    check(0 <= self.min_p <= 1, 'min_p', 'in [0, 1], 0 being off')
    check(isinstance(self.max_tokens, int) and self.max_tokens >= 1,
          'max_tokens', 'a whole number, 1 or more')
    ids = f'below the vocabulary size {vocab_size}'
    check(isinstance(self.stop_tokens, tuple)
          and all(0 <= token < vocab_size for token in self.stop_tokens),
          'stop_tokens', f'a tuple of token ids {ids}')
    check(0 <= self.pad_id < vocab_size, 'pad_id', f'a token id {ids}')
    check(isinstance(self.slots, int) and self.slots >= 0, 'slots',
          'a whole number of rows, or 0 (all at once)')
    check(isinstance(self.prefill_chunk, int) and self.prefill_chunk >= 0,
          'prefill_chunk', 'a whole number of prompts, or 0 (all at once)')
    check(self.slots > 0 or not self.prefill_chunk, 'prefill_chunk',
          '0 without sampler.slots')

  def check_slots(self, prompts: int, samples: int, shards: int = 1) -> None:
    """Raises ValueError when a batch cannot be decoded in the slots.

    Args:
      prompts: N of a batch.
      samples: G, rows per prompt.
      shards: of the rows on the mesh; each has slots and prompts of its own.

    Raises:
      ValueError: naming the setting, its value and the values it may have.

    Example:
      >>> SamplerConfig(slots=8).check_slots(prompts=4, samples=4)
    """
    if not self.slots:
      return
    if self.slots > prompts * samples:
      raise ValueError(
          f'sampler.slots is {self.slots}; prompts x samples = '
          f'{prompts * samples} rows need no more, and 0 decodes all at once')
    chunk = self.prefill_chunk or prompts
    if prompts % chunk:
      raise ValueError(f'sampler.prefill_chunk is {chunk}; it must divide the '
                       f'{prompts} prompts')
    for name, value in (
        ('sampler.slots', self.slots),
        ('sampler.prefill_chunk' if self.prefill_chunk else 'prompts', chunk)):
      if value % shards:
        raise ValueError(
            f'{name} is {value}; with sampler.slots it must be a multiple of '
            f"the {shards} shards of the sampler's mesh ('data' x 'fsdp')")


class Drawn(NamedTuple):
  """What is recorded of one token in each row: [B], or [M, B] in the loop.

  Attributes:
    token: i32.
    log_prob: f32, under the distribution that the token was drawn from.
    policy_log_prob: f32, at temperature 1 and without truncation.
    entropy: f32 in nats, of the distribution that the token was drawn from,
      as it was before `heat`.
    kept: uint32[..., ceil(V/32)], bits of what truncation left, or None.
  """
  token: Array
  log_prob: Array
  policy_log_prob: Array
  entropy: Array
  kept: Array | None


def draw(sampler: SamplerConfig, logits: Array, keys: Array,
         step: Array, heat: Heat | None = None) -> Drawn:
  """One token per row, with all that is known of it.

  Args:
    sampler: how to draw.
    logits: f32[B, V], of the policy.
    keys: [B] random keys of the rows, folded with the step.
    step: i32[] or i32[B], place in the response.
    heat: changes the temperature of a token by its entropy; None leaves it.

  Returns:
    Drawn of B rows.
  """
  if sampler.temperature == 0:
    plain = scaled = logits
    token = _argmax(logits)
    # One token alone, also when others tie with it.
    kept = jnp.arange(logits.shape[-1])[None] == token[:, None]
  else:
    plain = scaled = logits / sampler.temperature
    if heat is not None:
      scaled = plain / heated(_entropy(plain), heat)[:, None]
    kept = filters.keep(scaled, top_k=sampler.top_k, top_p=sampler.top_p,
                        min_p=sampler.min_p)
    noise = gumbel(keys, step, logits.shape[-1], logits.dtype)
    token = _argmax(_fill(scaled, kept, -jnp.inf) + noise)
  token = token.astype(jnp.int32)
  shifted, total = _shifted(_fill(scaled, kept, -jnp.inf))
  policy, policy_total = _shifted(logits)
  return Drawn(
      token, _at(shifted, token) - total, _at(policy, token) - policy_total,
      _entropy(_fill(plain, kept, -jnp.inf)),
      None if kept is None else bits.pack_kept(kept))


def stops(sampler: SamplerConfig, token: Array) -> Array:
  """Whether tokens i32[...] end a response; bool[...]."""
  ids = jnp.asarray(sampler.stop_tokens, jnp.int32)
  return (token[..., None] == ids.reshape((1,) * token.ndim + (-1,))).any(-1)


def ends(sampler: SamplerConfig, token: Array, step: Array,
         limits: Array) -> Array:
  """Whether a row ends with its token number `step`, counted from 0.

  Args:
    sampler: names the stop tokens.
    token: i32[B].
    step: i32[] or i32[B].
    limits: i32[B], most tokens of each row.

  Returns:
    bool[B].
  """
  return stops(sampler, token) | (step + 1 >= limits)


def _argmax(x):
  """The first place of the largest, i32[B]."""
  return jax.lax.platform_dependent(
      x, cpu=_first_largest, default=lambda x: jnp.argmax(x, axis=-1))


def _first_largest(x):
  """As two plain reductions: XLA's CPU backend does both at once, but slowly.
  """
  places = jnp.arange(x.shape[-1])[None]
  # Of nothing but NaN it is the first place, too.
  below = x < x.max(axis=-1, keepdims=True)
  return jnp.where(below, x.shape[-1], places).min(axis=-1)


def _entropy(logits):
  shifted, total = _shifted(logits)
  probs = jnp.exp(shifted - total[:, None])
  # What is ruled out has the logit -inf and the probability 0.
  return total - jnp.where(probs > 0, probs * shifted, 0.).sum(axis=-1)


def _shifted(logits):
  """Logits measured from the largest, and the log of their normaliser.

  What is small is rounded less: at low temperatures logits are large.
  """
  shifted = logits - logits.max(axis=-1, keepdims=True)
  return shifted, jnp.log(jnp.exp(shifted).sum(axis=-1))


def _fill(logits, kept, value):
  return logits if kept is None else jnp.where(kept, logits, value)


def _at(logits, token):
  return jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
