"""Losses of pairs of responses, measured against a reference policy.

Everything is a sequence's: log-probabilities summed over its chosen tokens,
f32[N], one entry per pair. The entries of a result are losses of pairs, to be
averaged by whoever knows how many pairs there are.
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

DIVERGENCES = ('reverse_kl', 'forward_kl', 'js', 'alpha')
# Kinds that see the two responses through the difference of their scores only.
_OF_THE_DIFFERENCE = (
    'sigmoid', 'hinge', 'ipo', 'exo_pair', 'robust', 'discopop')
_SORTED = ('aot', 'aot_unpaired')
DPO_KINDS = (
    *_OF_THE_DIFFERENCE, 'nca_pair', 'bco_pair', 'sppo_hard', 'apo_zero',
    'apo_down', *_SORTED)
_SMOOTHED = ('sigmoid', 'exo_pair', 'robust', *_SORTED)

log_sigmoid = jax.nn.log_sigmoid
sigmoid = jax.nn.sigmoid


def check_dpo(
    kind: str,
    *,
    divergence: str = 'reverse_kl',
    label_smoothing: float = 0.,
    tau: float = 0.05,
) -> None:
  """Raises ValueError for choices that do not fit together.

  Args:
    kind: must be one of `DPO_KINDS`.
    divergence: must be one of `DIVERGENCES`; only kinds that are functions of
      the difference of scores know another than 'reverse_kl'.
    label_smoothing: must be 0 for kinds that have none, above 0 for
      'exo_pair', and below ½ for 'robust'.
    tau: must be positive.

  Raises:
    ValueError: one of them is not as it must be.

  Example:
    >>> check_dpo('sigmoid', label_smoothing=.1)
  """
  check_name('kind of preference loss', kind, DPO_KINDS)
  check_name('divergence', divergence, DIVERGENCES)
  if divergence != 'reverse_kl' and kind not in _OF_THE_DIFFERENCE:
    raise ValueError(
        f"divergence is {divergence!r}; kind {kind!r} takes 'reverse_kl' "
        f'only, the others go with {_OF_THE_DIFFERENCE}')
  check_smoothing(kind, label_smoothing, _SMOOTHED)
  if kind == 'exo_pair' and not label_smoothing > 0:
    raise ValueError(
        f"label_smoothing is {label_smoothing}; kind 'exo_pair' takes its "
        'logarithm, so it must be above 0 (such as 1e-3)')
  if kind == 'robust' and not label_smoothing < 0.5:
    raise ValueError(
        f"label_smoothing is {label_smoothing}; for kind 'robust' it must be "
        'below 0.5')
  if not tau > 0:
    raise ValueError(f'tau is {tau}; it must be positive')


def divergence_score(
    log_ratios: Array,
    divergence: str = 'reverse_kl',
    *,
    alpha: float = 0.5,
    exponent_limit: float = 40.,
) -> Array:
  """f′(u), u = π / π_ref: what takes the place of log u under another f.

  With x = log u: reverse_kl x;  forward_kl 1 − e⁻ˣ;  js log 2 + log σ(x);
  alpha (e⁽ᵅ⁻¹⁾ˣ − 1) / (α − 1).

  alpha equals reverse_kl at α = 1 and forward_kl at α = 0.

  Args:
    log_ratios: f32[N], log π(y) − log π_ref(y).
    divergence: one of `DIVERGENCES`.
    alpha: α.
    exponent_limit: exponents stop there; the square of e⁴⁰ is still a float32.

  Returns:
    f32[N].

  Raises:
    ValueError: an unknown divergence.

  Source: "Beyond Reverse KL: Generalizing Direct Preference Optimization with
    Diverse Divergence Constraints", Wang, Jiang, Yang, Liu, Chen, 2023,
    arXiv:2309.16240.

  Example:
    >>> x = jnp.array([0., 1.])
    >>> [round(float(s), 4) for s in divergence_score(x, 'forward_kl')]
    [0.0, 0.6321]
  """
  check_name('divergence', divergence, DIVERGENCES)
  x = masking.as_float(log_ratios)
  if divergence == 'js':
    return jnp.log(jnp.asarray(2., x.dtype)) + log_sigmoid(x)
  power = -1. if divergence == 'forward_kl' else alpha - 1
  if divergence == 'reverse_kl' or abs(power) < 1e-6:
    return x
  return jnp.expm1(ratios.clamp(power * x, (None, exponent_limit))) / power


def _exo(x, eps):
  return (sigmoid(x) * (log_sigmoid(x) - jnp.log1p(-eps))
          + sigmoid(-x) * (log_sigmoid(-x) - jnp.log(eps)))


def _robust(x, eps):
  return (-(1 - eps) * log_sigmoid(x) + eps * log_sigmoid(-x)) / (1 - 2 * eps)


def _discopop(x, tau):
  # e⁻ˣ·σ(x/τ) in logarithms: where the one overflows, the other vanishes.
  blend = jnp.exp(ratios.clamp(log_sigmoid(x / tau) - x, (None, 80.)))
  return -log_sigmoid(x) * sigmoid(-x / tau) + blend


def _per_pair(kind, d, a, b, beta, eps, tau):
  """The losses from the margin d and the two log-ratios a and b."""
  if kind in ('sigmoid', *_SORTED):
    return smooth_logistic(beta * d, eps)
  if kind == 'hinge':
    return hinge(beta * d)
  if kind == 'ipo':
    return jnp.square(d - 0.5 / beta)
  if kind == 'exo_pair':
    return _exo(beta * d, eps)
  if kind == 'robust':
    return _robust(beta * d, eps)
  if kind == 'discopop':
    return _discopop(beta * d, tau)
  if kind == 'nca_pair':
    return -(log_sigmoid(beta * a) + 0.5 * log_sigmoid(-beta * a)
             + 0.5 * log_sigmoid(-beta * b))
  if kind == 'bco_pair':
    return -log_sigmoid(beta * a) - log_sigmoid(-beta * b)
  if kind == 'sppo_hard':
    return jnp.square(a - 0.5 / beta) + jnp.square(b + 0.5 / beta)
  if kind == 'apo_zero':
    return sigmoid(-beta * a) + sigmoid(beta * b)
  return sigmoid(beta * a) + sigmoid(-beta * d)  # apo_down


def _sorted_margin(x, y, where):
  """The i-th smallest of x minus the i-th smallest of y, and which i count."""
  count = jnp.sum(where.astype(jnp.int32))
  inside = jnp.arange(where.shape[0]) < count
  x, y = (masking.fill(jnp.sort(jnp.where(where, v, jnp.inf)), inside)
          for v in (x, y))
  return x - y, inside


def dpo_pair_losses(
    chosen: Array,
    rejected: Array,
    ref_chosen: Array,
    ref_rejected: Array,
    *,
    kind: str = 'sigmoid',
    beta: float = 0.1,
    label_smoothing: float = 0.,
    divergence: str = 'reverse_kl',
    alpha: float = 0.5,
    tau: float = 0.05,
    lengths: tuple[Array, Array] | None = None,
    where: Array | None = None,
    exponent_limit: float = 40.,
) -> Array:
  """The losses of direct preference optimisation and of its relatives.

  With a = log π(y⁺) − log π_ref(y⁺), b the same of y⁻, and the margin
  d = s(a) − s(b), where s is the `divergence_score` (a itself by default):

    sigmoid    −(1 − ε)·log σ(βd) − ε·log σ(−βd);  ε > 0 is conservative DPO
    hinge      max(0, 1 − βd)
    ipo        (d − 1/2β)²
    exo_pair   σ(βd)·(log σ(βd) − log(1 − ε)) + σ(−βd)·(log σ(−βd) − log ε)
    robust     (−(1 − ε)·log σ(βd) + ε·log σ(−βd)) / (1 − 2ε)
    discopop   −log σ(βd)·σ(−βd/τ) + e^(−βd)·σ(βd/τ)
    nca_pair   −log σ(βa) − ½·log σ(−βa) − ½·log σ(−βb)
    bco_pair   −log σ(βa) − log σ(−βb)
    sppo_hard  (a − 1/2β)² + (b + 1/2β)²
    apo_zero   σ(−βa) + σ(βb)
    apo_down   σ(βa) + σ(−βd)
    aot        sigmoid of the i-th smallest log π(y⁺) − log π(y⁻) minus the
               i-th smallest log π_ref(y⁺) − log π_ref(y⁻)
    aot_unpaired  sigmoid of the i-th smallest a minus the i-th smallest b

  robust equals sigmoid at ε = 0; aot_unpaired equals sigmoid for one pair.

  Args:
    chosen: f32[N], log π(y⁺), summed over tokens.
    rejected: f32[N], log π(y⁻).
    ref_chosen: f32[N], log π_ref(y⁺); a constant.
    ref_rejected: f32[N], log π_ref(y⁻); a constant.
    kind: one of `DPO_KINDS`.
    beta: β.
    label_smoothing: ε.
    divergence: one of `DIVERGENCES`.
    alpha: of the divergence 'alpha'.
    tau: τ of 'discopop'.
    lengths: (f32[N], f32[N]) in tokens: log-probabilities become means over
      tokens; None: they stay sums.
    where: bool[N], the entries that are pairs; the others get 0.
    exponent_limit: of `divergence_score`.

  Returns:
    f32[N], one loss per pair; of the kinds 'aot' entry i belongs to the i-th
    smallest, not to pair i.

  Raises:
    ValueError: as `check_dpo`.

  Source: "Direct Preference Optimization: Your Language Model is Secretly a
    Reward Model", Rafailov et al., 2023, arXiv:2305.18290; ε of sigmoid: "A
    note on DPO with noisy preferences & relationship to IPO", Mitchell, 2023;
    hinge arXiv:2305.10425, ipo arXiv:2310.12036, exo_pair arXiv:2402.00856,
    robust arXiv:2403.00409, discopop arXiv:2406.08414, nca_pair
    arXiv:2402.05369, bco_pair arXiv:2404.04656, sppo_hard arXiv:2405.00675,
    apo arXiv:2408.06266, aot arXiv:2406.05882.

  Example:
    >>> chosen, rejected, ref = (jnp.array([x]) for x in (-2., -4., -3.))
    >>> loss = dpo_pair_losses(chosen, rejected, ref, ref, beta=.5)
    >>> round(float(loss[0]), 4)
    0.3133
  """
  check_dpo(kind, divergence=divergence, label_smoothing=label_smoothing,
            tau=tau)
  stop = jax.lax.stop_gradient
  logps = [chosen, rejected, stop(ref_chosen), stop(ref_rejected)]
  chex.assert_rank(logps, 1)
  chex.assert_equal_shape(logps)
  where = jnp.ones(chosen.shape, bool) if where is None else where
  logps = [masking.fill(x, where) for x in logps]
  if lengths is not None:
    lengths = [jnp.maximum(masking.fill(x, where), 1) for x in lengths]
    logps = [x / n for x, n in zip(logps, lengths * 2)]
  chosen, rejected, ref_chosen, ref_rejected = logps
  a, b = chosen - ref_chosen, rejected - ref_rejected
  if kind == 'aot':
    d, where = _sorted_margin(
        chosen - rejected, ref_chosen - ref_rejected, where)
  elif kind == 'aot_unpaired':
    d, where = _sorted_margin(a, b, where)
  else:
    d = jnp.subtract(*(divergence_score(
        x, divergence, alpha=alpha, exponent_limit=exponent_limit)
                       for x in (a, b)))
  return masking.fill(
      _per_pair(kind, d, a, b, beta, label_smoothing, tau), where)
