"""The methods that the others change one part of."""

from policyopt.methods.base.dapo import dapo
from policyopt.methods.base.dr_grpo import dr_grpo
from policyopt.methods.base.grpo import grpo
from policyopt.methods.base.gspo import gspo
from policyopt.methods.base.ppo import ppo
from policyopt.methods.base.reinforce import reinforce
from policyopt.methods.base.rloo import rloo

__all__ = ['dapo', 'dr_grpo', 'grpo', 'gspo', 'ppo', 'reinforce', 'rloo']
