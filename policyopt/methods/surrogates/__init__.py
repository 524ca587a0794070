"""Methods that change the loss of a token: its ratio, its clip, its mask."""

__all__: list[str] = []
