"""ADORA, advantage dynamics via online rollout adaptation.

"ADORA: Training Reasoning Models with Dynamic Advantage Estimation on
Reinforcement Learning", 2026, arXiv:2602.10019.

Whether a prompt is worth learning from now is read off its own rollouts: it is
advantaged when its longest correct answer is longer than the mean of its wrong
ones that were not cut short (thinking longer helps), and, with
criterion='both', when at most a share τ of its answers is correct:

  A = w·(A of grpo),  w = 1 where advantaged else λ      (mode='attenuate')
                      w = λ where advantaged else 1      (mode='amplify')

Equals grpo when λ = 1. The published settings are
  adora()                                          the LLM code, λ = 0.1
  adora(missing='vlm', eps=1e-9)                   the VLM code
  adora(mode='amplify', lam=2., criterion='both')  the paper, for text

`missing` says what is made of a group without a correct, or without a wrong,
answer: 'llm' calls none correct disadvantaged and none wrong advantaged, 'vlm'
the reverse.

Differs from the authors' code: a group of one gets 0 instead of its reward; an
answer is cut short when the sampler says so, unless `max_length` is given.
"""

from __future__ import annotations

import jax.numpy as jnp

from policyopt import credit, ops
from policyopt.credit import reports
from policyopt.methods.base.grpo import grpo
from policyopt.names import check_name
from policyopt.ops.estimators import difficulty
from policyopt.types import Array, CreditTransform, Method, Rollout, read_extra

CRITERIA = ('length', 'difficulty', 'both')


def favour_promising_prompts(
    *,
    mode: str = 'attenuate',
    criterion: str = 'length',
    lam: float = 0.1,
    correct_above: float = 0.5,
    tau: float = 0.5,
    missing: str = 'llm',
    max_length: int | None = None,
    channel: str | None = None,
) -> CreditTransform:
  """Aₜ times one weight per prompt, decided by its rollouts; see `adora`.

  Args:
    mode: 'attenuate' (λ ≤ 1 where not advantaged) or 'amplify' (λ ≥ 1 where
      advantaged).
    criterion: 'length', 'difficulty' or 'both', when a prompt is advantaged.
    lam: λ.
    correct_above: a row is correct if its reward is larger.
    tau: τ, the largest share of correct rows of a difficult prompt.
    missing: 'llm' or 'vlm', see `ops.longer_when_correct`.
    max_length: wrong rows of so many tokens were cut short; None: those that
      the sampler marked.
    channel: the reward channel that says what is correct; their sum when None.

  Returns:
    A CreditTransform for advantages, to follow a base such as
    `group_standardize`; needs 'truncated' unless `max_length` is given.
    Metrics: 'adora/advantaged', the share of advantaged prompts.

  Raises:
    ValueError: an unknown `mode`, `criterion` or `missing`, a λ on the wrong
      side of 1 or below 0, or a `max_length` that is not positive.

  Source: "ADORA: Training Reasoning Models with Dynamic Advantage Estimation
    on Reinforcement Learning", 2026, arXiv:2602.10019.
  """
  check_name('mode', mode, ('attenuate', 'amplify'))
  check_name('criterion', criterion, CRITERIA)
  check_name('missing', missing, difficulty.MISSING)
  if mode == 'attenuate' and not 0 <= lam <= 1:
    raise ValueError(f"lam is {lam}; mode 'attenuate' needs it in [0, 1]")
  if mode == 'amplify' and not lam >= 1:
    raise ValueError(
        f"lam is {lam}; mode 'amplify' needs 1 or more (the paper has 2)")
  if max_length is not None and max_length <= 0:
    raise ValueError(f'max_length is {max_length}; it must be positive')

  def advantaged(rollout: Rollout) -> Array:
    """bool[B], by group."""
    group = rollout.group
    correct = credit.row_success(
        rollout, channel, reader='favour_promising_prompts') > correct_above
    result = jnp.ones(group.shape, bool)
    if criterion != 'difficulty':
      lengths = jnp.sum(rollout.mask.astype(jnp.float32), axis=1)
      if max_length is None:
        cut = read_extra(rollout, 'truncated', 'favour_promising_prompts')
      else:
        cut = lengths >= max_length
      result &= ops.longer_when_correct(
          lengths, correct, ~correct & ~cut, group, missing=missing)
    if criterion != 'length':
      result &= ops.segment_count(group, where=correct) <= (
          tau * ops.segment_count(group))
    return result

  def favour(x, rollout):
    yes, no = (1., lam) if mode == 'attenuate' else (lam, 1.)
    weights = jnp.where(advantaged(rollout), jnp.asarray(yes, x.dtype), no)
    return x * ops.gather(weights, rollout.group)[:, None]

  def metrics(x, state, rollout):
    del x, state
    return {'adora/advantaged': reports.prompt_metric(
        advantaged(rollout), rollout)}

  reads_truncated = criterion != 'difficulty' and max_length is None
  return credit.stateless(
      favour, {'truncated'} if reads_truncated else (), metrics)


def adora(
    *,
    std: str = 'sample',
    eps: float = 1e-6,
    singleton: str = 'zero',
    mode: str = 'attenuate',
    criterion: str = 'length',
    lam: float = 0.1,
    correct_above: float = 0.5,
    tau: float = 0.5,
    missing: str = 'llm',
    max_length: int | None = None,
    channel: str | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    old: str = 'log_probs',
    beta: float = 0.001,
    kl: str = 'k3',
    kl_gradient: str | None = None,
    aggregation: str = 'token_mean',
    max_tokens: int | None = None,
) -> Method:
  """ADORA: grpo's advantage times a weight per prompt.

  Args:
    std: 'sample', 'population' or 'none' (only the mean is removed).
    eps: added to the standard deviation.
    singleton: what a group of one gets: 'zero' or 'raw'.
    mode: 'attenuate' (λ ≤ 1 where not advantaged) or 'amplify' (λ ≥ 1 where
      advantaged).
    criterion: 'length', 'difficulty' or 'both', when a prompt is advantaged.
    lam: λ.
    correct_above: a row is correct if its reward is larger.
    tau: τ, the largest share of correct rows of a difficult prompt.
    missing: 'llm' or 'vlm', what a group without a correct or a wrong row is.
    max_length: wrong rows of so many tokens were cut short; None: those that
      the sampler marked.
    channel: the reward channel that says what is correct; their sum when None.
    clip_low: how far the ratio may fall below 1.
    clip_high: how far the ratio may rise above 1.
    dual_clip: bound c on the ratio where the advantage is negative, or None.
    old: 'log_probs' or 'old_log_probs', as in `grpo`.
    beta: β of the KL term; with 0 no reference model is needed.
    kl: estimator of its value, 'k1', 'k2', 'k3' or 'abs'.
    kl_gradient: estimator of its gradient; as `kl` when None.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method.

  Raises:
    ValueError: as `favour_promising_prompts` and `grpo`.

  Source: "ADORA: Training Reasoning Models with Dynamic Advantage Estimation
    on Reinforcement Learning", 2026, arXiv:2602.10019.

  Example:
    >>> sorted(adora().advantages.needs), sorted(adora(beta=0.).loss.needs)
    (['truncated'], [])
  """
  method = grpo(
      std=std, eps=eps, singleton=singleton, clip_low=clip_low,
      clip_high=clip_high, dual_clip=dual_clip, old=old, beta=beta, kl=kl,
      kl_gradient=kl_gradient, aggregation=aggregation, max_tokens=max_tokens)
  return method._replace(advantages=credit.chain(
      method.advantages,
      favour_promising_prompts(
          mode=mode, criterion=criterion, lam=lam, correct_above=correct_above,
          tau=tau, missing=missing, max_length=max_length, channel=channel)))
