"""Losses: weighted sums over tokens."""

from policyopt.losses.base import add
from policyopt.losses.blended import blended_surrogate
from policyopt.losses.covariance import (
    kl_on_tokens_surrogate,
    without_tokens_surrogate,
)
from policyopt.losses.heterogeneous import heterogeneous_surrogate
from policyopt.losses.off_policy import dppo_surrogate, dro_loss, tapered_loss
from policyopt.losses.preference import (
    cpo_loss,
    dpo_loss,
    kto_loss,
    orpo_loss,
)
from policyopt.losses.regularizers import entropy_bonus, kl_penalty
from policyopt.losses.reward_model import pairwise_reward_loss
from policyopt.losses.router import load_balance_loss, router_z_loss
from policyopt.losses.soft_clips import (
    cispo_surrogate,
    gmpo_surrogate,
    sapo_surrogate,
    vespo_surrogate,
)
from policyopt.losses.surrogate import clipped_surrogate, policy_gradient_loss
from policyopt.losses.value import squared_value_errors, value_loss

__all__ = [
    'add',
    'blended_surrogate',
    'cispo_surrogate',
    'clipped_surrogate',
    'cpo_loss',
    'dpo_loss',
    'dppo_surrogate',
    'dro_loss',
    'entropy_bonus',
    'gmpo_surrogate',
    'heterogeneous_surrogate',
    'kl_on_tokens_surrogate',
    'kl_penalty',
    'kto_loss',
    'load_balance_loss',
    'orpo_loss',
    'pairwise_reward_loss',
    'policy_gradient_loss',
    'router_z_loss',
    'sapo_surrogate',
    'squared_value_errors',
    'tapered_loss',
    'value_loss',
    'vespo_surrogate',
    'without_tokens_surrogate',
]
