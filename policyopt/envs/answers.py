r"""The final answer in a text: after `####`, in \boxed{}, in tags, as a number.

Verifier processes import this module, so it needs nothing but Python.
"""

from __future__ import annotations

import decimal
import re

# 1,234.5 with a currency sign on either side of the minus.
_NUMBER = r'[-+]?\s?[$€£]?\s?[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)'
_FLEXIBLE = re.compile(_NUMBER)
# Behind the number: a percent sign, a unit without digits, a full stop.
_HASHES = re.compile(rf'\s*({_NUMBER})\s*(?:%|[^\d\n]{{0,40}})\s*$')
_BOX = re.compile(r'\\(?:boxed|fbox|framebox)\b\s*')
_TAG = re.compile(r'<answer>(.*?)</answer>', re.DOTALL)
_ANNOTATION = re.compile(r'<<[^<>]*>>')


def after_hashes(text: str) -> str | None:
  """What stands on the line of the last `####`, or None.

  Example:
    >>> after_hashes('6 * 7 = <<6*7=42>>42\\n#### 42')
    '42'
  """
  _, hashes, rest = text.rpartition('####')
  lines = rest.strip().split('\n')
  return lines[0].strip() or None if hashes else None


def hashes_number(text: str) -> str | None:
  """The number after the last `####`, which must be alone but for a unit.

  Returns:
    It in the form of `number`, or None.

  Example:
    >>> hashes_number('So he has\\n#### $1,250.00.'), hashes_number('1250')
    ('1250', None)
    >>> hashes_number('#### 3 or 4') is None
    True
  """
  match = _HASHES.match(after_hashes(text) or '')
  return number(match[1]) if match else None


def last_number(text: str) -> str | None:
  """The last number in a text, in the form of `number`, or None.

  Example:
    >>> last_number('She pays $3 for 2, so $6.')
    '6'
  """
  found = _FLEXIBLE.findall(text)
  return number(found[-1]) if found else None


def number(text: str) -> str | None:
  """The one form of a decimal number: no commas, signs or trailing zeros.

  Example:
    >>> number('$ 1,200.50'), number('-0'), number('12 pens')
    ('1200.5', '0', None)
  """
  text = re.sub(r'[\s,$€£%]', '', text).rstrip('.')
  if not re.fullmatch(r'[-+]*(?:\d+(?:\.\d*)?|\.\d+)', text):
    return None
  negative = text.count('-') % 2
  value = decimal.Decimal(text.lstrip('+-'))
  # Longer than any precision, so that no digit is lost.
  shown = format(value, 'f')
  if '.' in shown:
    shown = shown.rstrip('0').rstrip('.')
  shown = shown.lstrip('0') or '0'
  shown = f'0{shown}' if shown.startswith('.') else shown
  return f'-{shown}' if negative and shown != '0' else shown


def boxed(text: str) -> str | None:
  r"""What the last \boxed{} holds, with its nested braces, or None.

  A box that is never closed is none: the response was cut. `\boxed 5` holds
  the next character, as in LaTeX; \fbox and \framebox count as well.

  Example:
    >>> boxed(r'First \boxed{1}, then \boxed{\frac{1}{2}}.')
    '\\frac{1}{2}'
    >>> boxed(r'\boxed{\frac{1}{2}') is None
    True
  """
  match = None
  for match in _BOX.finditer(text):  # noqa: B007
    pass
  if match is None:
    return None
  rest = text[match.end():]
  if not rest.startswith('{'):
    return rest[:1].strip() or None
  depth = 0
  for i, character in enumerate(rest):
    # An escaped brace is one of a set, not of the box.
    if character in '{}' and not _escaped(rest, i):
      depth += 1 if character == '{' else -1
      if not depth:
        return rest[1:i].strip() or None
  return None


def _escaped(text, i):
  backslashes = len(text[:i]) - len(text[:i].rstrip('\\'))
  return backslashes % 2 == 1


def tagged(text: str) -> str | None:
  """What the last <answer>...</answer> holds, or None.

  Example:
    >>> tagged('<think>6*7</think><answer> 42 </answer>')
    '42'
  """
  found = _TAG.findall(text)
  return found[-1].strip() or None if found else None


def without_annotations(text: str) -> str:
  """GSM8K's worked solutions without the calculator's notes.

  Example:
    >>> without_annotations('2 * 3 = <<2*3=6>>6')
    '2 * 3 = 6'
  """
  return _ANNOTATION.sub('', text)


_SPELLINGS = (
    (re.compile(r'\\(?:text|textbf|textit|textrm|mbox|mathrm|mathbf|rm)'
                r'\s*\{([^{}]*)\}'), r'\1'),
    (re.compile(r'\\[dtc]frac'), r'\\frac'),
    (re.compile(r'\\(?:left|right|displaystyle|,|!|;|:|quad|qquad)'
                r'(?![A-Za-z])'), ''),
    (re.compile(r'\\([$%{}#&_])'), r'\1'),
    (re.compile(r'\^\{?\\circ\}?|°'), ''),
    (re.compile(r'[\s~$]'), ''),
)


def plain(text: str) -> str:
  r"""An answer without what does not change its meaning: spaces, fonts, sizes.

  Equal forms are equal answers; unequal ones may still be. Words lose their
  capitals, single letters do not, since x and X are two variables.

  Example:
    >>> plain(r'\left( 3, \dfrac{\pi}{2} \right).')
    '(3,\\frac{\\pi}{2})'
    >>> plain(r'\text{Evelyn}') == plain('evelyn'), plain('(C)')
    (True, 'C')
  """
  for pattern, replacement in _SPELLINGS:
    text = pattern.sub(replacement, text)
  text = text.rstrip('.')
  if re.fullmatch(r'\((?:[A-Za-z]|\d+)\)', text):
    text = text[1:-1]
  return text.casefold() if re.fullmatch(r'[A-Za-z]{2,}', text) else text
