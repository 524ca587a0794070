"""The methods that the others change one part of."""

from policyopt.methods.base.dapo import dapo
from policyopt.methods.base.dr_grpo import dr_grpo
from policyopt.methods.base.gdpo import gdpo
from policyopt.methods.base.gpg import gpg
from policyopt.methods.base.grpo import grpo
from policyopt.methods.base.gspo import gspo
from policyopt.methods.base.maxrl import maxrl
from policyopt.methods.base.opo import opo
from policyopt.methods.base.otb import otb
from policyopt.methods.base.passk_grpo import passk_grpo
from policyopt.methods.base.ppo import ppo
from policyopt.methods.base.reinforce import reinforce
from policyopt.methods.base.reinforce_pp import reinforce_pp
from policyopt.methods.base.reinforce_pp_baseline import reinforce_pp_baseline
from policyopt.methods.base.remax import remax
from policyopt.methods.base.rloo import rloo

__all__ = [
    'dapo',
    'dr_grpo',
    'gdpo',
    'gpg',
    'grpo',
    'gspo',
    'maxrl',
    'opo',
    'otb',
    'passk_grpo',
    'ppo',
    'reinforce',
    'reinforce_pp',
    'reinforce_pp_baseline',
    'remax',
    'rloo',
]
