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
        'TrainState', 'Turns'),
    # F2, the parts.
    'policyopt.credit': (
        'adapt_entropy_coef', 'adaptive_kl_in_reward', 'add', 'aggregate',
        'best_margin', 'centre_and_rescale', 'chain', 'constant_length',
        'corrected', 'divide_by_mean', 'drop_flat_groups', 'drop_truncated',
        'from_channel', 'gae', 'group_standardize', 'identity',
        'importance_weights', 'kl_in_reward', 'kl_price', 'leave_one_out',
        'leave_one_out_standardize', 'mark_desirable', 'mark_pairs',
        'mask_off_policy_sequences', 'overlong_penalty', 'prompt_mean',
        'reject_tokens', 'reward_to_go', 'scheduled', 'sequence_mean',
        'sequence_return', 'sequence_sum', 'standardize_channels', 'stateless',
        'subtract_batch_mean', 'subtract_greedy_reward',
        'subtract_length_weighted_mean', 'subtract_token_baseline',
        'token_mean', 'watch_mismatch', 'weigh_judged', 'weigh_pairs', 'where',
        'whiten'),
    'policyopt.losses': (
        'blended_surrogate', 'cispo_surrogate', 'clipped_surrogate',
        'cpo_loss', 'dpo_loss', 'dppo_surrogate', 'dro_loss', 'entropy_bonus',
        'gmpo_surrogate', 'heterogeneous_surrogate', 'kl_on_tokens_surrogate',
        'kl_penalty', 'kto_loss', 'load_balance_loss', 'orpo_loss',
        'pairwise_reward_loss', 'policy_gradient_loss', 'router_z_loss',
        'sapo_surrogate', 'tapered_loss', 'value_loss',
        'vespo_surrogate', 'without_tokens_surrogate'),
    'policyopt.planning': ('oversample', 'uniform_prompts'),
    'policyopt.envs': ('VerifierPool', 'environment'),
    'policyopt.models': ('ModelConfig', 'Tokenizer', 'make_mesh', 'preset'),
    'policyopt.data': (
        'Fields', 'JsonLines', 'Problems', 'pack_examples', 'tfds_source',
        'write_tfds'),
    # F3, sampling.
    'policyopt.rollouts': (
        'SamplerConfig', 'all_at', 'refill_flat_groups', 'sample',
        'sample_groups', 'with_greedy'),
    # F4, the published methods.
    'policyopt.methods': (
        'Dialect', 'algorithms', 'dialect', 'frameworks', 'in_framework',
        'ace', 'adora', 'agrae', 'arm', 'bnpo', 'canon', 'capo', 'cispo',
        'clip_cov', 'copo', 'cpo', 'd3s', 'dapo', 'dpo', 'dppo', 'dr_grpo',
        'dro', 'dvao', 'gdpo', 'gmpo', 'gpg', 'grpo', 'gspo', 'hapo', 'kl_cov',
        'kto', 'luspo', 'm2po', 'maxrl', 'ngrpo', 'opo', 'orpo', 'otb',
        'passk_grpo', 'ppo', 'recipe', 'reinforce', 'reinforce_pp',
        'reinforce_pp_baseline', 'remax', 'rloo', 'sapo', 'simpo', 'topr',
        'verl_hidden', 'vespo'),
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
