"""ARM, the Advantage Re-weighting Mechanism of ProGRPO.

"Back to Basics: Revisiting Exploration in Reinforcement Learning for LLM
Reasoning via Generative Probabilities", Pengyi Li, Elizaveta Goncharova, Andrey
Kuznetsov, Ivan Oseledets, 2026, arXiv:2602.05281.

GRPO reinforces what is already likely. ARM takes from each response what the
policy is sure of, so that correct but unlikely ones gain:

  A = (R − mean of the group) / std of the group
      + α·(c_q − c) in groups with a correct response
  c = exp(mean log π over the 20% least probable tokens of the response)
  c_q = the same of the prompt, the mean over the group's rows
  L = (1 / N) Σ over all N tokens of
      −min(ρₜAₜ, clip(ρₜ, 1 − ε_low, 1 + ε_high)·Aₜ)

Equals grpo with the same clip and aggregation when α = 0.

Differs from the paper where it is not known: α is not published and 0.3 is
ours; groups that are all correct are corrected too, unless `skip_all_correct`;
the same fraction of the prompt's tokens is taken as of the response's, unless
`whole_prompt`. A response is correct if its reward is positive. A prompt of
one token has no probability: c_q is then the group's mean c. There is no
authors' code to compare with.
"""

from __future__ import annotations

import jax.numpy as jnp

from policyopt import credit, losses, ops, planning, rollouts
from policyopt.credit import reports
from policyopt.types import Array, CreditTransform, Method, Rollout, read_extra


def confidences(
    rollout: Rollout,
    *,
    low_fraction: float = 0.2,
    whole_prompt: bool = False,
) -> tuple[Array, Array]:
  """How sure the policy was of each response, and of its prompt.

  Args:
    rollout: the rollout; needs 'prompt_log_probs'.
    low_fraction: of a response's tokens, the least probable, that count.
    whole_prompt: takes all tokens of the prompt instead of that fraction.

  Returns:
    (c f32[B], c_q f32[B]), c_q the same for all rows of a group. A row without
    tokens has c = c_q, and a group without a prompt that could be scored has
    the mean of c as c_q.
  """
  mask, group = credit.taking_part(rollout), rollout.group
  prompt = ops.prompt_tokens(mask)
  of_prompt = read_extra(rollout, 'prompt_log_probs', 'favour_uncertain')
  answer = ops.tail_confidence(rollout.log_probs, mask, fraction=low_fraction)
  question = ops.tail_confidence(
      of_prompt, prompt, fraction=1. if whole_prompt else low_fraction)

  def group_mean(values, rows):
    ids = jnp.where(rows, group, -1)
    return (ops.gather(ops.segment_level(values, ids), group),
            ops.gather(ops.segment_count(ids), group) > 0)

  wrote = jnp.any(mask, axis=1)
  mean_question, asked = group_mean(question, jnp.any(prompt, axis=1))
  question = jnp.where(asked, mean_question, group_mean(answer, wrote)[0])
  return jnp.where(wrote, answer, question), question


def favour_uncertain(
    *,
    alpha: float = 0.3,
    low_fraction: float = 0.2,
    whole_prompt: bool = False,
    skip_all_correct: bool = False,
) -> CreditTransform:
  """Aₜ + α·(c_q − c) in groups in which some row earned more than 0.

  Args:
    alpha: α.
    low_fraction: of a response's tokens, the least probable, that c looks at.
    whole_prompt: c_q looks at all tokens of the prompt instead.
    skip_all_correct: leaves groups alone whose rows all earned more than 0.

  Returns:
    A CreditTransform for advantages, after the group's comparison; needs
    'prompt_log_probs' and 'token_rewards'. Metrics: 'arm/answer_confidence'
    and 'arm/prompt_confidence', means over rows.

  Raises:
    ValueError: `low_fraction` is not in (0, 1].

  Source: "Back to Basics: Revisiting Exploration in Reinforcement Learning for
    LLM Reasoning via Generative Probabilities", Li et al., 2026,
    arXiv:2602.05281.
  """
  if not 0 < low_fraction <= 1:
    raise ValueError(f'low_fraction is {low_fraction}; it must lie in (0, 1]')

  def measure(rollout):
    return confidences(
        rollout, low_fraction=low_fraction, whole_prompt=whole_prompt)

  def correct_advantages(x, rollout):
    earned = read_extra(rollout, 'token_rewards', 'favour_uncertain')
    right = (credit.row_rewards(earned, rollout) > 0).astype(jnp.float32)
    share = ops.gather(
        ops.segment_level(right, rollout.group), rollout.group)
    concerned = share > 0
    if skip_all_correct:
      concerned &= share < 1
    answer, question = measure(rollout)
    return x + credit.spread_rows(
        jnp.where(concerned, alpha * (question - answer), 0), rollout)

  def metrics(x, state, rollout):
    del x, state
    answer, question = measure(rollout)
    return {'arm/answer_confidence': reports.row_metric(answer, rollout),
            'arm/prompt_confidence': reports.row_metric(question, rollout)}

  return credit.stateless(
      correct_advantages, {'prompt_log_probs', 'token_rewards'}, metrics)


def arm(
    *,
    alpha: float = 0.3,
    low_fraction: float = 0.2,
    whole_prompt: bool = False,
    skip_all_correct: bool = False,
    std: str = 'sample',
    eps: float = 1e-6,
    singleton: str = 'zero',
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float | None = None,
    old: str = 'log_probs',
    aggregation: str = 'token_mean',
    max_tokens: int | None = None,
) -> Method:
  """ARM: what the policy is sure of counts less.

  Args:
    alpha: α, weight of the correction; no value is published.
    low_fraction: of a response's tokens, the least probable, that c looks at.
    whole_prompt: c_q looks at all tokens of the prompt instead.
    skip_all_correct: leaves groups alone whose rows all earned more than 0.
    std: 'sample', 'population' or 'none' (only the mean is removed).
    eps: added to the standard deviation.
    singleton: what a group of one gets before the correction: 'zero' or 'raw'.
    clip_low: how far the ratio may fall below 1.
    clip_high: how far the ratio may rise above 1.
    dual_clip: bound c on the ratio where the advantage is negative, or None.
    old: 'log_probs' or 'old_log_probs', as in `grpo`.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method; needs 'prompt_log_probs'.

  Raises:
    ValueError: `low_fraction` is not in (0, 1], or an unknown `std`,
      `singleton`, `old` or `aggregation`.

  Source: "Back to Basics: Revisiting Exploration in Reinforcement Learning for
    LLM Reasoning via Generative Probabilities", Li et al., 2026,
    arXiv:2602.05281.

  Example:
    >>> sorted(arm().advantages.needs)
    ['prompt_log_probs', 'token_rewards']
  """
  # A group of one is corrected too, so no size is too small.
  return Method(
      rewards=credit.identity(),
      advantages=credit.chain(
          credit.group_standardize(std=std, eps=eps, singleton=singleton),
          favour_uncertain(
              alpha=alpha, low_fraction=low_fraction,
              whole_prompt=whole_prompt, skip_all_correct=skip_all_correct)),
      weights=credit.aggregate(aggregation, length=max_tokens),
      loss=losses.clipped_surrogate(
          clip_low, clip_high, dual_clip=dual_clip, old=old),
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups())
