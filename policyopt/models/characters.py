"""A vocabulary of a few characters, for models of a few thousand weights."""

from __future__ import annotations

from policyopt.models import tokenizer

_FIRST = 2
# So that up to 8 devices divide it.
_MULTIPLE = 8


def character_tokenizer(alphabet: str) -> tokenizer.Tokenizer:
  """One token per character of an alphabet, and nothing else.

  Padding is 0, the stop token 1, character k is k + 2. The vocabulary is
  rounded up to a multiple of 8.

  Args:
    alphabet: different characters.

  Returns:
    A `Tokenizer` whose `encode` raises ValueError for other characters.

  Raises:
    ValueError: for an empty alphabet or a repeated character.

  Example:
    >>> digits = character_tokenizer('0123456789=')
    >>> digits.vocab_size, digits.encode('7='), digits.decode([9, 12, 1])
    (16, [9, 12], '7=')
  """
  if not alphabet or len(set(alphabet)) < len(alphabet):
    raise ValueError(
        f'alphabet is {alphabet!r}; it must hold different characters')
  ids = {character: i for i, character in enumerate(alphabet, _FIRST)}

  def encode(text):
    unknown = sorted(set(text) - set(ids))
    if unknown:
      raise ValueError(
          f'{text!r} has the character {unknown[0]!r}, which is not in the '
          f'alphabet {alphabet!r} of the tokenizer')
    return [ids[character] for character in text]

  def decode(tokens):
    return ''.join(alphabet[i - _FIRST] for i in map(int, tokens)
                   if _FIRST <= i < _FIRST + len(alphabet))

  size = -(-(len(alphabet) + _FIRST) // _MULTIPLE) * _MULTIPLE
  return tokenizer.Tokenizer(
      f'characters:{alphabet}', size, 1, 0, encode, decode)
