"""Terms that keep the router of a mixture of experts even and small.

They ask the policy's forward pass for 'router' (see `types.PolicyOutput`). The
z-loss is a sum over tokens like every other loss. The load balance is not: it
is a product of two means over the tokens that are looked at together, so it is
taken per MICROBATCH (over all its shards), and the microbatches are averaged by
the sums of their weights. More microbatches ask for balance within fewer
tokens, which is more than balance over the batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from policyopt.losses import base
from policyopt.ops import masking
from policyopt.types import Loss


def load_balance_loss(coef: float, *, per_layer: bool = False) -> Loss:
  """W · coef · E Σₑ fₑ Pₑ: experts get equal shares of the tokens.

  fₑ is how often expert e is among the k of a token, and Pₑ its mean
  probability, both means over the layers and the tokens of the microbatch up
  to each row's last chosen one (prompts count, padding does not);
  W = Σ wₜ over its chosen tokens. Even shares give W · coef · k.

  Equals `load_balancing_loss_func` of the transformers library times coef for
  a batch in one piece whose weights sum to 1.

  Args:
    coef: weight of the term; 0.001 to 0.02 are usual.
    per_layer: the mean over the layers of each layer's own E Σₑ fₑ Pₑ, as in
      the Switch Transformer, instead of shares over all layers together.

  Returns:
    A Loss; needs 'router' of the policy. Metrics: 'loss/load_balance',
    'router/load_balance' (without coef), and 'router/max_load', the largest
    share of any layer's expert over an even share.

  Source: "Switch Transformers: Scaling to Trillion Parameter Models with
    Simple and Efficient Sparsity", Fedus et al., 2021, arXiv 2101.03961.

  Example:
    >>> from policyopt.types import PolicyOutput, Rollout
    >>> one = jnp.ones((1, 1))
    >>> router = {'assigned': jnp.array([[1., 0.]]), 'tokens': jnp.float32(1),
    ...           'probs': jnp.array([[.8, .2]]), 'z': one}
    >>> rollout = Rollout(one, one > 0, one, jnp.zeros(1, int), {})
    >>> loss, _ = load_balance_loss(0.5).apply(
    ...     PolicyOutput(one, router=router), one, one, rollout)
    >>> round(float(loss), 6)
    0.8
  """
  def apply(policy, advantages, weights, rollout):
    del advantages
    router = base.read_policy(policy, 'router', 'load_balance_loss')
    tokens = jnp.maximum(router['tokens'], 1)
    share, prob = router['assigned'] / tokens, router['probs'] / tokens
    experts = share.shape[1]
    if per_layer:
      balance = experts * jnp.mean(jnp.sum(share * prob, axis=1))
    else:
      balance = experts * jnp.sum(share.mean(axis=0) * prob.mean(axis=0))
    total = jnp.sum(masking.fill(weights, rollout.mask))
    loss = coef * balance * total
    count = jax.lax.stop_gradient(router['tokens'])
    chosen = jnp.maximum(jnp.sum(share, axis=1), 1e-30)  # k
    load = jnp.max(experts * jnp.max(share, axis=1) / chosen)
    return loss, {
        'loss/load_balance': base.loss_metric(loss, weights),
        'router/load_balance': (jax.lax.stop_gradient(balance) * count, count),
        'router/max_load': (jax.lax.stop_gradient(load) * count, count),
    }

  return Loss(apply, frozenset({'router'}))


def router_z_loss(coef: float) -> Loss:
  """Σ wₜ·coef·zₜ, zₜ = (log Σₑ exp of the router's logits)², mean over layers.

  Adds over microbatches: it is a sum over the chosen tokens, each at the place
  that predicts it.

  Args:
    coef: weight of the term; 0.001 is usual.

  Returns:
    A Loss; needs 'router' of the policy. Metrics: 'loss/router_z' and
    'router/z' (without coef).

  Source: "ST-MoE: Designing Stable and Transferable Sparse Expert Models",
    Zoph et al., 2022, arXiv 2202.08906.

  Example:
    >>> from policyopt.types import PolicyOutput, Rollout
    >>> one = jnp.ones((1, 1))
    >>> rollout = Rollout(one, one > 0, one, jnp.zeros(1, int), {})
    >>> loss, _ = router_z_loss(0.5).apply(
    ...     PolicyOutput(one, router={'z': 4 * one}), one, one, rollout)
    >>> float(loss)
    2.0
  """
  def apply(policy, advantages, weights, rollout):
    del advantages
    mask = rollout.mask
    z = base.read_policy(policy, 'router', 'router_z_loss')['z']
    loss = base.weighted_sum(coef * z, weights, mask)
    return loss, {
        'loss/router_z': base.loss_metric(loss, weights),
        'router/z': base.mean_metric(z, mask & (weights != 0)),
    }

  return Loss(apply, frozenset({'router'}))
