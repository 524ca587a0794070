"""Cases of whole methods: credit of one batch, loss, gradient; no peers.

Recipes are here with their default arguments, so that the kernels that a
published method has of its own are timed too; those of the folders whose
kernels have cases already are left out.
"""

from __future__ import annotations

from experiments.bench.cases import Case, apply, rollout
from policyopt import methods
from policyopt.training.credit import (
    assign_credit,
    init_credit,
    method_needs,
)

# What rollouts and policies carry -> the array that stands for it. What else a
# method may need is [B, T, D] or [B, T, K], too large for these sizes.
SUPPLIED = {
    'answer_id': 'answer', 'entropy': 'entropy', 'greedy_reward': 'greedy',
    'learning_rate': 'rate', 'old_log_probs': 'old', 'policy_log_probs': 'old',
    'progress': 'progress', 'prompt_log_probs': 'prompt',
    'ref_log_probs': 'ref', 'sum_squared_probs': 'squares',
    'truncated': 'truncated', 'values': 'values'}
COVERED = ('base', 'surrogates')
_ALWAYS = ('mask', 'ids', 'right', 'sampled', 'log_probs', 'entropy',
           'new_values')


def _case(name: str) -> Case:
  method = _build(name)
  extras = _extras(method)

  def ours(**x):
    sampled = rollout(
        x['mask'], x['sampled'], x['ids'], x['right'],
        **{need: x[SUPPLIED[need]] for need in extras})
    credit, _ = assign_credit(method, init_credit(method), sampled)
    out = apply(method.loss, x['log_probs'], credit.advantages,
                credit.weights, credit.rollout, entropy=x['entropy'],
                values=x['new_values'])
    return out | {'advantages': credit.advantages}

  ours.wants = tuple(dict.fromkeys(
      (*_ALWAYS, *(SUPPLIED[need] for need in extras))))
  return Case(f'recipe {name}', ours, by='log_probs', forward=False,
              scaled=False)


def _names() -> list[str]:
  return [name for name in methods.names()
          if methods.folder(name) not in COVERED]


def _build(name: str):
  # Shapes of a policy, for the recipes that ask for them.
  return methods.build(
      name, {}, max_tokens=1024, vocab_size=1024, width=64)


def _extras(method) -> list[str]:
  return sorted(method_needs(method) - {'token_rewards'})


def too_large() -> dict[str, list[str]]:
  """Recipe -> what it needs that these sizes do not allow."""
  needs = {name: [need for need in _extras(_build(name))
                  if need not in SUPPLIED] for name in _names()}
  return {name: missing for name, missing in needs.items() if missing}


def cases() -> tuple[Case, ...]:
  """One case per recipe that needs arrays of [B, T] and [B] only."""
  left_out = too_large()
  return tuple(
      _case(name) for name in _names() if name not in left_out)
