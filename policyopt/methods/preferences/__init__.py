"""Methods that learn from which of two responses is the better one."""

__all__: list[str] = []
