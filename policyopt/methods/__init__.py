"""One file per published method; a recipe's keywords are its hyper-parameters.
"""

from policyopt.methods.base import (
    dapo,
    dr_grpo,
    grpo,
    gspo,
    ppo,
    reinforce,
    rloo,
)
from policyopt.methods.lookup import build, names, recipe

__all__ = [
    'build', 'dapo', 'dr_grpo', 'grpo', 'gspo', 'names', 'ppo', 'recipe',
    'reinforce', 'rloo',
]
