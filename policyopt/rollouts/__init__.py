"""Sampling from the policy, and the schemes that turn samples into rollouts."""

from policyopt.rollouts.filters import keep, keep_min_p, keep_top_k, keep_top_p
from policyopt.rollouts.flat import all_at, all_equal
from policyopt.rollouts.greedy import with_greedy
from policyopt.rollouts.group import (
    Generate,
    feedback,
    refill_flat_groups,
    sample_groups,
)
from policyopt.rollouts.sampler import SamplerConfig, Samples, sample

__all__ = [
    'Generate', 'Samples', 'SamplerConfig', 'all_at', 'all_equal', 'feedback',
    'keep', 'keep_min_p', 'keep_top_k', 'keep_top_p', 'refill_flat_groups',
    'sample', 'sample_groups', 'with_greedy',
]
