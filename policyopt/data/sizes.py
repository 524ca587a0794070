"""A few sizes instead of many: the only place that says which."""

from __future__ import annotations


def buckets(longest: int, count: int, multiple: int = 8) -> tuple[int, ...]:
  """Evenly spaced sizes up to the longest.

  size_k = ⌈longest · k / count⌉, rounded up to the multiple, k = 1 … count.

  Args:
    longest: the largest size; always among them, as it is.
    count: of sizes, at most; what is compiled is compiled once for each.
    multiple: that the other sizes are rounded up to.

  Returns:
    Ascending, without repetitions.

  Raises:
    ValueError: when an argument is less than 1.

  Example:
    >>> buckets(100, 4), buckets(100, 1)
    ((32, 56, 80, 100), (100,))
  """
  for name, value in (('longest', longest), ('count', count),
                      ('multiple', multiple)):
    if value < 1:
      raise ValueError(f'{name} is {value}; it must be at least 1')
  sizes = {longest}
  for k in range(1, count):
    size = -(-longest * k // count)
    sizes.add(min(-(-size // multiple) * multiple, longest))
  return tuple(sorted(sizes))


def smallest(sizes: tuple[int, ...], need: int) -> int:
  """The smallest of ascending sizes that is at least `need`.

  Example:
    >>> smallest((32, 56, 80, 100), 57)
    80
  """
  return next(size for size in sizes if size >= need)
