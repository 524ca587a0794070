"""Kernels over what the policy itself shows: confidence, entropy, states."""

__all__: list[str] = []
