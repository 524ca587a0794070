"""What verl, TRL, Tunix, NeMo RL and others do by default, by name.

"GRPO" is not one algorithm: frameworks differ in the spread they divide by and
what they add to it, in the baseline, the clips, the KL estimator, its place and
its gradient, in the correction for the sampler and in the mean that the loss
is. A `Dialect` names each of these choices; `in_framework` builds the method
that makes them, and takes other values for any of them:

  in_framework('verl', 'grpo')                  # as verl is shipped
  in_framework('trl', 'grpo', eps=1e-6)         # TRL, but for one number

The numbers are the defaults of the versions named in `Dialect.source`.
FRAMEWORKS.md has them as tables, and what they come to on one batch.
"""

from __future__ import annotations

from typing import Any

from policyopt.methods import framework_parts
from policyopt.methods.framework_dialect import Dialect
from policyopt.names import check_name
from policyopt.types import Method

# A group mean and a spread, no critic, no KL term: what most start from.
_PLAIN = dict(
    baseline='group_mean', std='sample', eps=1e-6, singleton='zero',
    clip_low=0.2, clip_high=0.2, dual_clip=None, log_ratio_limit=None,
    old='old_log_probs', aggregation='token_mean', beta=0., kl='k3',
    kl_place='loss')
_CRITIC = dict(baseline='critic', std='none', eps=0., whiten='sample')
_OTHERS = dict(baseline='leave_one_out', std='none', eps=0.)
_NOT_ALONE = 'groups of one are refused'

_VERL = Dialect(**_PLAIN | dict(
    source='verl-project/verl 1dda039b: verl/trainer/ppo/core_algos.py, '
           'verl/trainer/config/{ppo_trainer,actor/actor,critic/critic,'
           'algorithm/rollout_correction}.yaml',
    singleton='raw', dual_clip=3., log_ratio_limit=20., k3_input_limit=20.,
    k3_output_limit=10., remarks=(
        'use_kl_loss (coefficient 0.001) and use_kl_in_reward (0.001) turn '
        'the KL term on')))
_VERL_REWARD = dict(kl='k1', kl_place='reward')

_TRL = Dialect(**_PLAIN | dict(
    source='huggingface/trl 1.16.0: trl/trainer/grpo_{config,trainer}.py',
    eps=1e-4, empty_rows='count', kl_ratio='old', importance='sequence',
    importance_bound='mask', importance_cap=3., importance_limit=None,
    remarks=(
        'the correction is made when vLLM samples; a reward that is None '
        'leaves its row out of the group')))

_TUNIX = Dialect(**_PLAIN | dict(
    source='google/tunix c7d8950f: tunix/rl/algo_core.py, '
           'tunix/rl/grpo/grpo_learner.py',
    log_ratio_limit=20., aggregation='sequence_mean', beta=0.04, kl='k1',
    remarks=_NOT_ALONE))

_NEMO = Dialect(**_PLAIN | dict(
    source='NVIDIA-NeMo/RL 7ea279ab: nemo_rl/algorithms/'
           '{advantage_estimator,utils,loss/loss_functions}.py, '
           'examples/configs/grpo_math_1B.yaml',
    baseline='leave_one_out', std='others', beta=0.01, kl_ratio='one',
    kl_input_limit=20., kl_output_limit=10.))

_OPENRLHF = Dialect(**_PLAIN | dict(
    source='OpenRLHF/OpenRLHF 3c3be623: openrlhf/cli/train_ppo_ray.py, '
           'openrlhf/trainer/ppo_utils/experience_maker.py, '
           'openrlhf/models/{loss,utils}.py',
    eps=1e-9, log_ratio_limit=20., beta=0.01, kl='k1', kl_place='advantage',
    kl_output_limit=10., reward_clip=10., reward_clip_place='score',
    observations='decay', whiten_guard='floor',
    remarks=f'the estimator is called group_norm; {_NOT_ALONE}'))

_PRIME = Dialect(**_PLAIN | dict(
    source='PrimeIntellect-ai/prime-rl 559b4477: '
           'src/prime_rl/trainer/rl/loss.py, '
           'src/prime_rl/orchestrator/algo/grpo.py',
    std='none', eps=0., trust_region='probability', drift_penalty=1e-3,
    old='log_probs'))

_OPEN_INSTRUCT = Dialect(**_PLAIN | dict(
    source='allenai/open-instruct e6c3044a: open_instruct/grpo_utils.py, '
           'open_instruct/data_loader.py',
    std='none', eps=0., clip_high=0.272, beta=0.05, kl_input_limit=40.,
    importance='token', importance_cap=2., importance_limit=10.,
    drop_flat=True))

# (framework, algorithm) -> its defaults.
_DIALECTS = {
    ('verl', 'grpo'): _VERL,
    ('verl', 'rloo'): _VERL._replace(**_OTHERS, **_VERL_REWARD),
    ('verl', 'ppo'): _VERL._replace(
        **_CRITIC, **_VERL_REWARD, value_clip=0.5),
    ('trl', 'grpo'): _TRL,
    ('trl', 'rloo'): _TRL._replace(
        **_OTHERS, source='huggingface/trl 1.16.0: '
        'trl/trainer/rloo_{config,trainer}.py', level='product',
        aggregation='sequence_mean', beta=0.05, kl='k1', kl_place='reward',
        kl_ratio='none', importance=None, remarks=(
            'a reward that is None leaves its row out of the group')),
    ('tunix', 'grpo'): _TUNIX,
    ('tunix', 'rloo'): _TUNIX._replace(
        **_OTHERS, remarks="GRPOConfig(advantage_estimator='rloo')"),
    ('tunix', 'ppo'): _TUNIX._replace(
        **_CRITIC, source='google/tunix c7d8950f: tunix/rl/algo_core.py, '
        'tunix/rl/ppo/ppo_learner.py', log_ratio_limit=None,
        aggregation='token_mean', kl='k3', kl_place='reward', lam=0.95,
        value_clip=0.2, remarks=(
            'rewards are added to an array of integers there, which cuts '
            'them to whole numbers; here they keep their fractions')),
    ('nemo', 'grpo'): _NEMO,
    ('nemo', 'ppo'): _NEMO._replace(**_CRITIC, lam=0.95, remarks=(
        'the defaults of the classes; examples/configs/ppo_math_1B.yaml '
        'sets clip_high=0.28, dual_clip=10, beta=0, value_coef=0.4 and '
        'value_clip=0.2')),
    ('openrlhf', 'grpo'): _OPENRLHF,
    ('openrlhf', 'rloo'): _OPENRLHF._replace(**_OTHERS, remarks=_NOT_ALONE),
    ('openrlhf', 'ppo'): _OPENRLHF._replace(
        **_CRITIC | dict(whiten='population'), kl_place='reward',
        reward_clip_place='reward', value_clip=0.5, remarks=''),
    ('prime-rl', 'grpo'): _PRIME,
    ('open-instruct', 'grpo'): _OPEN_INSTRUCT,
}


def frameworks() -> tuple[str, ...]:
  """The frameworks whose defaults are known.

  Returns:
    Their names.

  Example:
    >>> frameworks()
    ('verl', 'trl', 'tunix', 'nemo', 'openrlhf', 'prime-rl', 'open-instruct')
  """
  return tuple(dict.fromkeys(framework for framework, _ in _DIALECTS))


def algorithms(framework: str) -> tuple[str, ...]:
  """The algorithms of a framework whose defaults are known.

  Args:
    framework: as listed by `frameworks`.

  Returns:
    Some of 'grpo', 'rloo' and 'ppo'.

  Raises:
    ValueError: an unknown framework; the nearest one is suggested.

  Example:
    >>> algorithms('trl')
    ('grpo', 'rloo')
  """
  check_name('framework', framework, frameworks())
  return tuple(name for other, name in _DIALECTS if other == framework)


def dialect(framework: str, algorithm: str) -> Dialect:
  """What a framework does for an algorithm when nothing is configured.

  Args:
    framework: as listed by `frameworks`.
    algorithm: 'grpo', 'rloo' or 'ppo'.

  Returns:
    The choices.

  Raises:
    ValueError: an unknown framework or algorithm, or a framework that has no
      such algorithm; the error says which ones do.

  Example:
    >>> dialect('trl', 'grpo').eps, dialect('verl', 'grpo').eps
    (0.0001, 1e-06)
    >>> dialect('trl', 'ppo')
    Traceback (most recent call last):
    ValueError: 'trl' has no 'ppo', only grpo, rloo; 'ppo' exists in verl, \
tunix, nemo, openrlhf
  """
  own = algorithms(framework)
  check_name('algorithm', algorithm, {name for _, name in _DIALECTS})
  if algorithm not in own:
    having = [other for other, name in _DIALECTS if name == algorithm]
    raise ValueError(
        f'{framework!r} has no {algorithm!r}, only {", ".join(own)}; '
        f'{algorithm!r} exists in {", ".join(having)}')
  return _DIALECTS[framework, algorithm]


def in_framework(framework: str, algorithm: str, **changes: Any) -> Method:
  """The method that a framework runs when nothing is configured.

  Args:
    framework: as listed by `frameworks`.
    algorithm: 'grpo', 'rloo' or 'ppo'.
    **changes: other values for fields of `Dialect`.

  Returns:
    A Method.

  Raises:
    ValueError: as `dialect`; an unknown field, with the nearest; a value that
      does not exist, or that others rule out.

  Example:
    >>> sorted(in_framework('verl', 'grpo').loss.needs)
    ['old_log_probs']
    >>> sorted(in_framework('verl', 'grpo', beta=0.001).loss.needs)
    ['old_log_probs', 'ref_log_probs']
  """
  choices = dialect(framework, algorithm)
  for field in changes:
    check_name(f'field of {framework} {algorithm}', field, Dialect._fields)
  return framework_parts.assemble(choices._replace(**changes))
