"""Methods that change how rewards become advantages."""

__all__: list[str] = []
