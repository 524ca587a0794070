"""Methods that change how rewards become advantages."""

from policyopt.methods.advantages.ace import ace
from policyopt.methods.advantages.adora import adora
from policyopt.methods.advantages.agrae import agrae
from policyopt.methods.advantages.arm import arm
from policyopt.methods.advantages.bnpo import bnpo
from policyopt.methods.advantages.canon import canon
from policyopt.methods.advantages.capo import capo
from policyopt.methods.advantages.copo import copo
from policyopt.methods.advantages.d3s import d3s
from policyopt.methods.advantages.dvao import dvao
from policyopt.methods.advantages.hapo import hapo
from policyopt.methods.advantages.ngrpo import ngrpo
from policyopt.methods.advantages.verl_hidden import verl_hidden

__all__ = [
    'ace',
    'adora',
    'agrae',
    'arm',
    'bnpo',
    'canon',
    'capo',
    'copo',
    'd3s',
    'dvao',
    'hapo',
    'ngrpo',
    'verl_hidden',
]
