"""Forms that a response may be asked to have, as patterns; no JAX here.

Verifier processes try them, since a pattern may take for ever on some texts.
"""

from __future__ import annotations

import re

from policyopt.names import check_name

FORMATS = {
    'boxed': r'.*\\boxed\s*\{.+\}.*',
    'hashes': r'[^#]*####[ ]*[^\s#][^\n#]*',
    'think': r'<think>(?:(?!</?think>).)*</think>(?:(?!</?think>).)+',
    'think_answer': r'<think>(?:(?!</?think>).)*</think>\s*'
                    r'<answer>(?:(?!</?answer>).)+</answer>',
}


def pattern(form: str) -> re.Pattern[str]:
  """The pattern of a form: a key of `FORMATS`, or a regular expression.

  It must match the whole response; '.' matches line ends too.

  Raises:
    ValueError: for what is neither.

  Example:
    >>> bool(pattern('think').fullmatch('<think>6*7</think>42'))
    True
  """
  if form.isidentifier():
    check_name('format', form, FORMATS)
    form = FORMATS[form]
  try:
    return re.compile(form, re.DOTALL)
  except re.error as error:
    raise ValueError(
        f'format is {form!r}, which is no regular expression: {error}'
    ) from error
