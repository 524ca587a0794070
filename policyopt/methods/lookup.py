"""From the name and keyword arguments of a config to a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import inspect
from typing import Any

from policyopt.methods import advantages, base, preferences, surrogates
from policyopt.models.choice import model_of
from policyopt.names import check_name
from policyopt.types import Method

_FOLDERS = (base, surrogates, advantages, preferences)


def names() -> tuple[str, ...]:
  """The names of all methods, in alphabetical order.

  Returns:
    The names.

  Example:
    >>> 'grpo' in names()
    True
  """
  return tuple(sorted(name for home in _FOLDERS for name in home.__all__))


def recipe(name: str) -> Callable[..., Method]:
  """The function that makes a method; its keywords are the hyper-parameters.

  Args:
    name: as listed by `names`.

  Returns:
    The recipe.

  Raises:
    ValueError: an unknown name; the nearest one is suggested.

  Example:
    >>> recipe('grpo').__name__
    'grpo'
  """
  return getattr(_home(name), name)


def folder(name: str) -> str:
  """The folder of a method, which is named after the part that it changes.

  Args:
    name: as listed by `names`.

  Returns:
    The folder.

  Raises:
    ValueError: an unknown name.

  Example:
    >>> folder('grpo')
    'base'
  """
  return _home(name).__name__.rpartition('.')[2]


def _home(name):
  check_name('method', name, names())
  return next(home for home in _FOLDERS if name in home.__all__)


def build(
    name: str, kw: Mapping[str, Any] | None = None, **defaults) -> Method:
  """Calls a recipe with keyword arguments that were checked against it.

  Args:
    name: as listed by `names`.
    kw: its keyword arguments; the others, and those that are None, keep
      their defaults.
    **defaults: instead of the recipe's own where `kw` does not say; ignored
      by a recipe that has no such argument.

  Returns:
    The method.

  Raises:
    ValueError: an unknown name or keyword, a missing one, or a value that the
      recipe rejects.

  Example:
    >>> build('grpo', {'beta': 0.}).min_group
    2
  """
  kw = {name: value for name, value in dict(kw or {}).items()
        if value is not None}
  fn = recipe(name)
  parameters = inspect.signature(fn).parameters
  for keyword in kw:
    check_name(f'argument of method {name}', keyword, parameters)
  kw = {k: v for k, v in defaults.items() if k in parameters} | kw
  missing = [
      p.name for p in parameters.values()
      if p.default is p.empty and p.name not in kw]
  if missing:
    raise ValueError(f'method {name!r} needs a value for {missing}')
  return fn(**kw)


def from_config(config) -> Method:
  """The method of a config, told the sizes of its run.

  Args:
    config: as `configs/common.py: base` returns it; `method`, `method_kw`,
      `sampler.max_tokens` and `model` are read.

  Returns:
    The method. Arguments that the config leaves open and that are sizes of
    the run get them: `max_tokens`, the longest response, and `vocab_size` and
    `width` of the model.

  Raises:
    ValueError: as `build`, or an unknown preset or field of the model.
  """
  model = model_of(config.model)
  return build(
      config.method, config.method_kw, max_tokens=config.sampler.max_tokens,
      vocab_size=model.vocab_size, width=model.width)
