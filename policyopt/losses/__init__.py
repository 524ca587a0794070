"""Losses: weighted sums over tokens."""

from policyopt.losses.base import add
from policyopt.losses.regularizers import entropy_bonus, kl_penalty
from policyopt.losses.surrogate import clipped_surrogate, policy_gradient_loss
from policyopt.losses.value import squared_value_errors, value_loss

__all__ = [
    'add',
    'clipped_surrogate',
    'entropy_bonus',
    'kl_penalty',
    'policy_gradient_loss',
    'squared_value_errors',
    'value_loss',
]
