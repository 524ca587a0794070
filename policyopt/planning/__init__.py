"""Planners: which prompts come next."""

from policyopt.planning.prompts import PromptState, oversample, uniform_prompts

__all__ = [
    'PromptState',
    'oversample',
    'uniform_prompts',
]
