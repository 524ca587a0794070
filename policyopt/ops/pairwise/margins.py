"""What a margin between two responses costs; shared by pairwise losses."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from policyopt.ops import masking

Array = jax.Array


def check_smoothing(
    kind: str, label_smoothing: float, smoothed: tuple[str, ...]) -> None:
  """Raises ValueError for label smoothing where there is none to be had.

  Args:
    kind: of loss.
    label_smoothing: must lie in [0, 1), and be 0 unless the kind is smoothed.
    smoothed: the kinds that are.

  Raises:
    ValueError: it is not as it must be.

  Example:
    >>> check_smoothing('sigmoid', .1, ('sigmoid',))
  """
  if not 0 <= label_smoothing < 1:
    raise ValueError(
        f'label_smoothing is {label_smoothing}; it must lie in [0, 1)')
  if label_smoothing and kind not in smoothed:
    raise ValueError(
        f'label_smoothing is {label_smoothing}; kind {kind!r} has none, only '
        f'{smoothed} have')


def smooth_logistic(x: Array, label_smoothing: float = 0.) -> Array:
  """−(1 − ε)·log σ(x) − ε·log σ(−x).

  Args:
    x: f32[...].
    label_smoothing: ε, the chance that a label is the wrong way round.

  Returns:
    f32[...].

  Example:
    >>> round(float(smooth_logistic(jnp.zeros(()), .2)), 4)
    0.6931
  """
  loss = -(1 - label_smoothing) * jax.nn.log_sigmoid(x)
  if label_smoothing:
    loss -= label_smoothing * jax.nn.log_sigmoid(-x)
  return loss


def hinge(x: Array) -> Array:
  """max(0, 1 − x), with slope 0 at the corner.

  Args:
    x: f32[...].

  Returns:
    f32[...].

  Example:
    >>> hinge(jnp.array([0., 1., 2.])).tolist()
    [1.0, 0.0, 0.0]
  """
  return jnp.where(x < 1, 1 - x, 0)


def bradley_terry_losses(
    chosen: Array, rejected: Array, margin: Array | float = 0.) -> Array:
  """−log σ(r⁺ − r⁻ − m), of a reward model's scores.

  Equals log(1 + exp(r⁻ − r⁺)) at m = 0.

  Args:
    chosen: f32[N], r⁺.
    rejected: f32[N], r⁻.
    margin: f32[N] or a number, m: by how much the better one should win.

  Returns:
    f32[N], one loss per pair.

  Source: "Rank Analysis of Incomplete Block Designs: I. The Method of Paired
    Comparisons", Bradley, Terry, 1952, Biometrika 39:324-345; the margin:
    "Llama 2: Open Foundation and Fine-Tuned Chat Models", Touvron et al.,
    2023, arXiv:2307.09288.

  Example:
    >>> one = jnp.ones(1)
    >>> round(float(bradley_terry_losses(2 * one, one)[0]), 4)
    0.3133
  """
  chex.assert_equal_shape((chosen, rejected))
  margin = jnp.asarray(margin, masking.as_float(chosen).dtype)
  return -jax.nn.log_sigmoid(
      masking.as_float(chosen) - masking.as_float(rejected) - margin)
