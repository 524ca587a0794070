"""Pure kernels: arrays in, arrays out; nothing but jax beneath them."""

from policyopt.ops.aggregation import (
    constant_length,
    prompt_mean,
    sequence_mean,
    sequence_sum,
    token_mean,
)
from policyopt.ops.bits import num_words, pack_kept, unpack_kept
from policyopt.ops.divergences import kl_estimate
from policyopt.ops.masking import (
    as_float,
    fill,
    masked_mean,
    masked_sum,
    masked_variance,
    masked_whiten,
    safe_divide,
)
from policyopt.ops.normalizers import (
    flat_groups,
    group_standardize,
    leave_one_out,
)
from policyopt.ops.ratios import (
    clamp,
    clipped_away,
    clipped_objective,
    log_ratio,
    sequence_log_ratio,
)
from policyopt.ops.returns import discounted_returns, generalized_advantages
from policyopt.ops.segments import (
    centre,
    compact_ids,
    gather,
    segment_count,
    segment_max,
    segment_mean,
    segment_min,
    segment_std,
    segment_sum,
)
from policyopt.ops.statistics import (
    Interval,
    bootstrap_interval,
    maj_at_k,
    mean_interval,
    paired_gain_interval,
    pass_at_k,
)

__all__ = [
    'Interval',
    'as_float',
    'bootstrap_interval',
    'centre',
    'clamp',
    'clipped_away',
    'clipped_objective',
    'compact_ids',
    'constant_length',
    'discounted_returns',
    'fill',
    'flat_groups',
    'gather',
    'generalized_advantages',
    'group_standardize',
    'kl_estimate',
    'leave_one_out',
    'log_ratio',
    'maj_at_k',
    'masked_mean',
    'masked_sum',
    'masked_variance',
    'masked_whiten',
    'mean_interval',
    'num_words',
    'pack_kept',
    'paired_gain_interval',
    'pass_at_k',
    'prompt_mean',
    'safe_divide',
    'segment_count',
    'segment_max',
    'segment_mean',
    'segment_min',
    'segment_std',
    'segment_sum',
    'sequence_log_ratio',
    'sequence_mean',
    'sequence_sum',
    'token_mean',
    'unpack_kept',
]
