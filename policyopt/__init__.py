"""Language-model policy optimisation as small pure functions that compose.

The folders are namespaces (`policyopt.ops.kl_estimate`); what a method is made
of is also here by itself (`policyopt.grpo`, `policyopt.chain`). Everything
loads on first use, so importing one kernel needs nothing but JAX.
"""

import importlib

# Floor by floor: where a name lives -> the names, each of them once.
_HOMES = {
    # F0, the records.
    'policyopt.types': (
        'CreditTransform', 'Environment', 'Feedback', 'Loss', 'Method', 'Plan',
        'Planner', 'PolicyOutput', 'Prompts', 'Rollout', 'Scores',
        'TrainState'),
    # F2, the parts.
    'policyopt.credit': (
        'add', 'aggregate', 'chain', 'constant_length', 'drop_flat_groups',
        'drop_truncated', 'from_channel', 'gae', 'group_standardize',
        'identity', 'kl_in_reward', 'leave_one_out', 'overlong_penalty',
        'prompt_mean', 'reward_to_go', 'scheduled', 'sequence_mean',
        'sequence_return', 'sequence_sum', 'stateless', 'subtract_batch_mean',
        'token_mean', 'where', 'whiten'),
    'policyopt.losses': (
        'clipped_surrogate', 'entropy_bonus', 'kl_penalty',
        'policy_gradient_loss', 'value_loss'),
    'policyopt.planning': ('oversample', 'uniform_prompts'),
    'policyopt.envs': ('VerifierPool', 'environment'),
    'policyopt.models': ('ModelConfig', 'Tokenizer', 'make_mesh', 'preset'),
    'policyopt.data': ('pack_examples',),
    # F3, sampling.
    'policyopt.rollouts': (
        'SamplerConfig', 'refill_flat_groups', 'sample', 'sample_groups'),
    # F4, the published methods.
    'policyopt.methods': (
        'dapo', 'dr_grpo', 'grpo', 'gspo', 'ppo', 'recipe', 'reinforce',
        'rloo'),
    # F5, what drives them.
    'policyopt.training': (
        'Checkpoints', 'Writer', 'assign_credit', 'init_credit',
        'make_learner'),
}
_FOLDERS = (
    'types', 'ops', 'credit', 'losses', 'planning', 'envs', 'models', 'data',
    'rollouts', 'methods', 'training')
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted((*_FOLDERS, *_HOME))  # noqa: PLE0605


def __getattr__(name):
  """Loads a public name when it is first asked for."""
  if name in _FOLDERS:
    return importlib.import_module(f'policyopt.{name}')
  if name in _HOME:
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
  raise AttributeError(f'policyopt has no {name!r}')


def __dir__():
  """The public names."""
  return list(__all__)
