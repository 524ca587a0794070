"""Methods that change the loss of a token: its ratio, its clip, its mask."""

from policyopt.methods.surrogates.cispo import cispo
from policyopt.methods.surrogates.clip_cov import clip_cov
from policyopt.methods.surrogates.dppo import dppo
from policyopt.methods.surrogates.dro import dro
from policyopt.methods.surrogates.gmpo import gmpo
from policyopt.methods.surrogates.kl_cov import kl_cov
from policyopt.methods.surrogates.luspo import luspo
from policyopt.methods.surrogates.m2po import m2po
from policyopt.methods.surrogates.sapo import sapo
from policyopt.methods.surrogates.topr import topr
from policyopt.methods.surrogates.vespo import vespo

__all__ = [
    'cispo',
    'clip_cov',
    'dppo',
    'dro',
    'gmpo',
    'kl_cov',
    'luspo',
    'm2po',
    'sapo',
    'topr',
    'vespo',
]
