"""Kernels that turn rewards into advantages, one idea each."""

__all__: list[str] = []
