"""Kernels of policy losses: objectives, masks, corrections."""

__all__: list[str] = []
