"""Losses of pairs without a reference policy, and of single judged responses.

As in `ops.preferences` everything is a sequence's, one entry per pair or row.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from policyopt.names import check_name
from policyopt.ops import masking, ratios
from policyopt.ops.pairwise.margins import (
  check_smoothing,
  hinge,
  smooth_logistic,
)

Array = jax.Array

CPO_KINDS = ('sigmoid', 'hinge', 'ipo', 'simpo')
KTO_KINDS = ('kto', 'apo_zero_unpaired')
_SMOOTHED = ('sigmoid', 'simpo')


def check_cpo(kind: str, *, label_smoothing: float = 0.) -> None:
  """Raises ValueError for choices that do not fit together.

  Args:
    kind: must be one of `CPO_KINDS`.
    label_smoothing: must be 0 for 'hinge' and 'ipo'.

  Raises:
    ValueError: one of them is not as it must be.

  Example:
    >>> check_cpo('simpo', label_smoothing=.1)
  """
  check_name('kind of preference loss', kind, CPO_KINDS)
  check_smoothing(kind, label_smoothing, _SMOOTHED)


def shaped_reward(
    log_probs: Array, alpha: float = 0., *, exponent_limit: float = 40.
) -> Array:
  """(1 − p⁻ᵅ) / α with p = exp(log_probs).

  Equals log p in the limit, and by definition, at α = 0.

  Args:
    log_probs: f32[N], usually means over tokens.
    alpha: α.
    exponent_limit: −α·log p is no larger.

  Returns:
    f32[N].

  Source: "AlphaPO: Reward Shape Matters for LLM Alignment", Gupta et al.,
    2025, arXiv:2501.03884.

  Example:
    >>> [round(float(x), 4) for x in shaped_reward(jnp.array([-1., 0.]), .5)]
    [-1.2974, 0.0]
  """
  x = masking.as_float(log_probs)
  if alpha == 0:
    return x
  return -jnp.expm1(ratios.clamp(-alpha * x, (None, exponent_limit))) / alpha


def cpo_pair_losses(
    chosen: Array,
    rejected: Array,
    *,
    kind: str = 'sigmoid',
    beta: float = 0.1,
    label_smoothing: float = 0.,
    margin: float = 0.5,
    alpha: float = 0.,
    where: Array | None = None,
    exponent_limit: float = 40.,
) -> Array:
  """Contrastive preference losses; kind 'simpo' is SimPO.

  With d = r(log π(y⁺)) − r(log π(y⁻)), r the `shaped_reward` (the identity at
  α = 0), and ℓ(x) = −(1 − ε)·log σ(x) − ε·log σ(−x):

    sigmoid  ℓ(βd)
    hinge    max(0, 1 − βd)
    ipo      (d − 1/2β)²
    simpo    ℓ(βd − γ)

  simpo equals sigmoid at γ = 0; sigmoid equals DPO with a reference that gives
  every response the same probability.

  Args:
    chosen: f32[N], log π(y⁺): its mean over tokens for 'ipo' and 'simpo', its
      sum for the others.
    rejected: f32[N], log π(y⁻).
    kind: one of `CPO_KINDS`.
    beta: β.
    label_smoothing: ε, of 'sigmoid' and 'simpo'.
    margin: γ of 'simpo'.
    alpha: α of `shaped_reward`.
    where: bool[N], the entries that are pairs; the others get 0.
    exponent_limit: of `shaped_reward`.

  Returns:
    f32[N], one loss per pair.

  Raises:
    ValueError: as `check_cpo`.

  Source: "Contrastive Preference Optimization: Pushing the Boundaries of LLM
    Performance in Machine Translation", Xu et al., 2024, arXiv:2401.08417;
    simpo: "SimPO: Simple Preference Optimization with a Reference-Free
    Reward", Meng, Xia, Chen, 2024, arXiv:2405.14734.

  Example:
    >>> chosen, rejected = jnp.array([-.5]), jnp.array([-1.])
    >>> loss = cpo_pair_losses(chosen, rejected, kind='simpo', beta=2.)
    >>> round(float(loss[0]), 4)
    0.4741
  """
  check_cpo(kind, label_smoothing=label_smoothing)
  chex.assert_rank([chosen, rejected], 1)
  chex.assert_equal_shape((chosen, rejected))
  where = jnp.ones(chosen.shape, bool) if where is None else where
  chosen, rejected = (
      shaped_reward(masking.fill(x, where), alpha,
                    exponent_limit=exponent_limit)
      for x in (chosen, rejected))
  d = chosen - rejected
  if kind == 'hinge':
    losses = hinge(beta * d)
  elif kind == 'ipo':
    losses = jnp.square(d - 0.5 / beta)
  else:
    gamma = margin if kind == 'simpo' else 0.
    losses = smooth_logistic(beta * d - gamma, label_smoothing)
  return masking.fill(losses, where)


def log_odds(log_probs: Array, *, ceiling: float = -1e-7) -> Array:
  """log p − log(1 − p) with p = exp(log_probs).

  Args:
    log_probs: f32[N].
    ceiling: in log(1 − p), log p is no larger: the odds of certainty are
      infinite, and so is their slope.

  Returns:
    f32[N].

  Example:
    >>> [round(float(x), 4) for x in log_odds(jnp.log(jnp.array([.5, .9])))]
    [0.0, 2.1972]
  """
  x = masking.as_float(log_probs)
  low = ratios.clamp(x, (None, ceiling))
  # Each form where it is exact, and away from where its slope is infinite.
  border = -0.6931471805599453
  near = low > border
  rest = jnp.where(
      near, jnp.log(-jnp.expm1(jnp.where(near, low, border))),
      jnp.log1p(-jnp.exp(jnp.where(near, border, low))))
  return x - rest


def odds_ratio_losses(
    chosen: Array, rejected: Array, *, where: Array | None = None) -> Array:
  """−log σ(log odds(y⁺) − log odds(y⁻)).

  Args:
    chosen: f32[N], the mean over tokens of log π(y⁺).
    rejected: f32[N], the same of y⁻.
    where: bool[N], the entries that are pairs; the others get 0.

  Returns:
    f32[N], one loss per pair.

  Source: "ORPO: Monolithic Preference Optimization without Reference Model",
    Hong, Lee, Thorne, 2024, arXiv:2403.07691.

  Example:
    >>> chosen, rejected = jnp.log(jnp.array([[.8], [.5]]))
    >>> round(float(odds_ratio_losses(chosen, rejected)[0]), 4)
    0.2231
  """
  chex.assert_rank([chosen, rejected], 1)
  chex.assert_equal_shape((chosen, rejected))
  where = jnp.ones(chosen.shape, bool) if where is None else where
  chosen, rejected = (
      log_odds(masking.fill(x, where, -1.)) for x in (chosen, rejected))
  return masking.fill(-jax.nn.log_sigmoid(chosen - rejected), where)


def kto_row_losses(
    log_ratios: Array,
    desirable: Array,
    kl: Array,
    *,
    kind: str = 'kto',
    beta: float = 0.1,
    desirable_weight: float = 1.,
    undesirable_weight: float = 1.,
    where: Array | None = None,
) -> Array:
  """λ⁺·σ(−β(Δ − z)) for desirable responses, λ⁻·σ(β(Δ − z)) for the others.

  Δ = log π(y) − log π_ref(y). Kind 'apo_zero_unpaired' has z = 0.

  Args:
    log_ratios: f32[N], Δ, summed over tokens.
    desirable: bool[N].
    kl: f32[] or f32[N], z ≥ 0, how far the policy is from the reference; a
      constant.
    kind: 'kto' or 'apo_zero_unpaired'.
    beta: β.
    desirable_weight: λ⁺.
    undesirable_weight: λ⁻.
    where: bool[N], the rows that are judged; the others get 0.

  Returns:
    f32[N], one loss per response.

  Raises:
    ValueError: an unknown kind.

  Source: "KTO: Model Alignment as Prospect Theoretic Optimization", Ethayarajh
    et al., 2024, arXiv:2402.01306; apo_zero_unpaired: "Anchored Preference
    Optimization and Contrastive Revisions: Addressing Underspecification in
    Alignment", D'Oosterlinck et al., 2024, arXiv:2408.06266.

  Example:
    >>> losses = kto_row_losses(
    ...     jnp.array([2., 2.]), jnp.array([True, False]), 0., beta=.5)
    >>> [round(float(x), 4) for x in losses]
    [0.2689, 0.7311]
  """
  check_name('kind of preference loss', kind, KTO_KINDS)
  chex.assert_rank([log_ratios, desirable], 1)
  chex.assert_equal_shape((log_ratios, desirable))
  where = jnp.ones(desirable.shape, bool) if where is None else where
  x = masking.fill(log_ratios, where)
  if kind == 'kto':
    x = x - jax.lax.stop_gradient(jnp.asarray(kl, x.dtype))
  losses = jnp.where(
      desirable, desirable_weight * jax.nn.sigmoid(-beta * x),
      undesirable_weight * jax.nn.sigmoid(beta * x))
  return masking.fill(losses, where)
