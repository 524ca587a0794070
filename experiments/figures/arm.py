"""ARM: how many right answers are left when one of them was known too well.

    python experiments/figures/arm.py [--fast]

64 prompts with sequences of two tokens out of six; for each first token one
second token is right, so that there are six right answers. At first the policy
takes one of them with a chance of 0.5 and each other with 0.02. Its prompts
have a chance of 0.02 to 0.2 for their least sure token, as text has. All arms
have the same loss and the same learning rate, with which GRPO learns the task
by the end.
"""

from __future__ import annotations

import functools
import pathlib
import sys

if __name__ == '__main__':
  sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import jax
import jax.numpy as jnp
import numpy as np

from experiments.figures import beds, drawing, figure, verdict
from policyopt import methods, types
from policyopt.envs import exact

METHODS = ('arm',)
_PROMPTS, _SAMPLES, _BRANCHES, _FOUND = 64, 8, 6, 32
_PEAK, _RARE = 0.5, 0.02
# With 5 GRPO is not done at the last step; with 80 and more nothing is left of
# the other answers after a tenth of the run, in any arm.
_RATE = 20.
# α; with 0 it is GRPO with the same clip and aggregation.
_ARMS = {'GRPO': 0., 'ARM, α = 0.1': 0.1, 'ARM, α = 0.3': 0.3,
         'ARM, α = 1': 1.}
_PLAIN, _ARM = 'GRPO', 'ARM, α = 0.3'


def _gain(key):
  """At the end of training, ARM minus GRPO: records -> [S]."""
  return lambda r: r[_ARM][key][:, -1] - r[_PLAIN][key][:, -1]


CLAIMS = (
    verdict.Claim(
        'ARM keeps many right answers alive where GRPO ends with few.',
        'Expected number of different right answers among 32 samples of a '
        'prompt after the last step: ARM with α = 0.3 minus GRPO.', 'answers',
        _gain('different'), at_least=0.5),
    verdict.Claim(
        'ARM keeps the entropy from collapsing.',
        'Entropy of sequences after the last step: ARM with α = 0.3 minus '
        'GRPO.', 'nats', _gain('entropy'), at_least=0.1),
    verdict.Claim(
        'ARM raises pass@1 over GRPO.',
        'Success rate after the last step: ARM with α = 0.3 minus GRPO.', '',
        _gain('success')),
)


def run(fast: bool = False) -> dict:
  """Trains every arm.

  Args:
    fast: fewer seeds and steps.

  Returns:
    arm -> 'different', 'entropy' and 'success' [S, points]; and 'step'
    [points].
  """
  count, points, apart = (3, 6, 5) if fast else (16, 21, 10)
  steps = (points - 1) * apart
  # All arms are one program, which compiles once.
  found = jax.jit(jax.vmap(jax.vmap(
      functools.partial(_train, steps, apart), (None, 0)), (0, None)))(
          jnp.array(list(_ARMS.values())), beds.seeds(count))
  return {name: {key: np.asarray(x[number]) for key, x in found.items()}
          for number, name in enumerate(_ARMS)} | {
              'step': np.arange(points) * apart}


def _train(steps, apart, alpha, key):
  """One seed of one arm: what is seen every `apart` steps."""
  world_key, asked, key = jax.random.split(key, 3)
  world = _world(world_key)
  method = methods.arm(alpha=alpha)
  method = method._replace(advantages=_after_prompt(
      method.advantages,
      jax.random.uniform(asked, (_PROMPTS,), minval=0.02, maxval=0.2)))

  def watch(logits):
    chances = jax.vmap(exact.probs, (None, 0))(world.bed, logits)
    missed = jnp.where(world.reward > 0, (1 - chances) ** _FOUND, 1.)
    return dict(different=(1 - missed).sum(1).mean(),
                entropy=beds.entropy(world, logits),
                success=beds.objective(world, logits))

  seen = beds.learn(
      world, method, key, steps=steps, prompts=_PROMPTS, samples=_SAMPLES,
      learning_rate=_RATE, watch=watch)
  return jax.tree.map(lambda x: x[::apart], seen)


def _after_prompt(part: types.CreditTransform, chance):
  """The transform on rows that begin with a prompt of two tokens.

  Args:
    part: for advantages.
    chance: f32[Q], of the prompt's second token; nothing predicts the first.

  Returns:
    The transform on rows without their prompts.
  """
  def pad(x):
    return jnp.pad(x, ((0, 0), (2, 0)))

  def update(x, state, rollout):
    told = jnp.log(chance)[rollout.extras['prompt']][:, None]
    whole = rollout._replace(
        tokens=pad(rollout.tokens), mask=pad(rollout.mask),
        log_probs=pad(rollout.log_probs),
        rewards=jax.tree.map(pad, rollout.rewards),
        extras=dict(
            token_rewards=pad(rollout.extras['token_rewards']),
            prompt_log_probs=pad(rollout.log_probs).at[:, 1:2].set(told)))
    x, state = part.update(pad(x), state, whole)
    return x[:, 2:], state

  return part._replace(update=update)


def _world(key) -> beds.World:
  """One right second token for each first one; the policy knows one pair."""
  bed = exact.make_bed(_BRANCHES, 2)
  second = jax.random.randint(
      key, (_PROMPTS, _BRANCHES), 0, _BRANCHES)
  first, last = bed.sequences.T
  right = second[:, first] == last
  # Pairs with the first token 0 are what the policy knows too well.
  chance = jnp.where(right, jnp.where(first == 0, _PEAK, _RARE), 0.)
  wrong = (1 - chance.sum(1, keepdims=True)) / (~right).sum(1, keepdims=True)
  chance = jnp.where(right, chance, wrong).reshape(
      _PROMPTS, _BRANCHES, _BRANCHES)
  # Rows are breadth first: the empty prefix, then the first tokens.
  logits = jnp.log(jnp.concatenate(
      [chance.sum(2)[:, None], chance], axis=1))
  return beds.World(bed, right.astype(jnp.float32), logits)


def plot(records: dict):
  """Different right answers, entropy and success while training."""
  made, axes = drawing.panels(3)
  for axis, key, title, label in zip(
      axes, ('different', 'entropy', 'success'),
      ('Right answers found', 'Entropy', 'Success'),
      ('different ones in 32 samples', 'of sequences, nats', 'success rate')):
    drawing.curves(axis, {name: records[name][key] for name in _ARMS},
                   x=records['step'])
    drawing.dress(axis, title, 'step', label)
  drawing.legend(made, axes[0])
  return made


if __name__ == '__main__':
  figure.main(__name__)
