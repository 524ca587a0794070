"""Kernels of losses over pairs of responses."""

__all__: list[str] = []
