"""Methods that learn from which of two responses is the better one."""

from policyopt.methods.preferences.cpo import cpo
from policyopt.methods.preferences.dpo import dpo
from policyopt.methods.preferences.kto import kto
from policyopt.methods.preferences.orpo import orpo
from policyopt.methods.preferences.simpo import simpo

__all__ = ['cpo', 'dpo', 'kto', 'orpo', 'simpo']
