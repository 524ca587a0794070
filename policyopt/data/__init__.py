"""Turns examples into arrays."""

from policyopt.data.packing import pack_examples

__all__ = ['pack_examples']
