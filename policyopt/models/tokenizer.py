"""Text to token ids and back: bytes, sentencepiece, published tokenizers.

A `Tokenizer` is five values and two functions, so any other tokenizer is one
`Tokenizer(...)` away. Id 0 is padding in every vocabulary built here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
import difflib
import importlib
import io
import json
import os
from typing import NamedTuple

_BYTE_OFFSET = 3
# Names of the end-of-text token in published vocabularies, chat turns first.
_EOS_NAMES = (
    '<|im_end|>', '<|eot_id|>', '<end_of_turn>', '<|endoftext|>',
    '<|end_of_text|>', '<eos>', '</s>', '[SEP]')


class Tokenizer(NamedTuple):
  """Text to token ids and back.

  Attributes:
    name: as in configs and error messages.
    vocab_size: one more than the largest id; never exceeds the model's.
    eos_id: the stop token; `encode` never adds it.
    pad_id: fills the places right of a text.
    encode: text -> list of ids, without special tokens.
    decode: ids -> text; special tokens and unused ids are dropped.
  """
  name: str
  vocab_size: int
  eos_id: int
  pad_id: int
  encode: Callable[[str], list[int]]
  decode: Callable[[Sequence[int]], str]


def byte_tokenizer() -> Tokenizer:
  """UTF-8 bytes: no file, no training, nothing unknown.

  Padding is 0, the stop token 1, byte b is b + 3. The vocabulary is rounded up
  to 264 ids so that 2, 4 or 8 devices divide it. Bytes that are not UTF-8
  decode to U+FFFD.

  Returns:
    A `Tokenizer`.

  Example:
    >>> byte_tokenizer().encode('7+5=')
    [58, 46, 56, 64]
    >>> byte_tokenizer().decode([58, 46, 56, 64, 1])
    '7+5='
  """

  def encode(text):
    return [byte + _BYTE_OFFSET for byte in text.encode('utf-8')]

  def decode(ids):
    data = bytes(
        i - _BYTE_OFFSET for i in map(int, ids)
        if _BYTE_OFFSET <= i < 256 + _BYTE_OFFSET)
    return data.decode('utf-8', errors='replace')

  return Tokenizer('byte', 264, 1, 0, encode, decode)


def train_sentencepiece(
    texts: Iterable[str], vocab_size: int, path: str, *,
    model_type: str = 'bpe') -> Tokenizer:
  """Trains a sentencepiece vocabulary and writes it to a file.

  Text is neither normalised nor prefixed with a space, and characters outside
  the vocabulary fall back to bytes, so that decoding an encoded text gives the
  same text.

  Args:
    texts: the training text, in pieces of any length.
    vocab_size: ids, 256 bytes and 3 special ones included; fewer are used when
      the text has too few different pieces.
    path: the model file to write.
    model_type: 'bpe' or 'unigram'.

  Returns:
    The `Tokenizer` that `sentencepiece_tokenizer(path)` gives.

  Raises:
    ImportError: without the `sentencepiece` package.
    ValueError: if `vocab_size` is too small.
  """
  sentencepiece = _require('sentencepiece')
  if vocab_size <= 256 + _BYTE_OFFSET:
    raise ValueError(
        f'vocab_size is {vocab_size}, but must be greater than 259: 256 bytes '
        'and 3 special tokens come first')
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model,
        vocab_size=vocab_size, model_type=model_type, byte_fallback=True,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False,
        normalization_rule_name='identity', add_dummy_prefix=False,
        remove_extra_whitespaces=False, split_digits=True, minloglevel=2)
  except RuntimeError as error:
    raise ValueError(f'sentencepiece could not train: {error}') from error
  # A killed run leaves the whole file or none.
  with open(f'{path}.partial', 'wb') as file:
    file.write(model.getvalue())
  os.replace(f'{path}.partial', path)
  return sentencepiece_tokenizer(path)


def sentencepiece_tokenizer(path: str) -> Tokenizer:
  """Loads a sentencepiece model file.

  Args:
    path: the `.model` file.

  Returns:
    A `Tokenizer`; padding is 0 when the model names no padding token.

  Raises:
    ImportError: without the `sentencepiece` package.
    FileNotFoundError: if there is no such file.
    ValueError: if it is no such model, or names no end-of-text token.
  """
  sentencepiece = _require('sentencepiece')
  _require_file(path)
  try:
    model = sentencepiece.SentencePieceProcessor(model_file=path)
  except (RuntimeError, OSError) as error:
    raise ValueError(f'{path} is no sentencepiece model: {error}') from error
  if model.eos_id() < 0:
    raise ValueError(f'{path} names no end-of-text token')
  size = model.vocab_size()

  def decode(ids):
    return model.decode([
        i for i in map(int, ids) if 0 <= i < size
        and not model.is_control(i) and not model.is_unused(i)])

  return Tokenizer(
      f'sentencepiece:{path}', size, model.eos_id(), max(model.pad_id(), 0),
      model.encode, decode)


def hf_tokenizer(path: str, *, eos_token: str | None = None) -> Tokenizer:
  """Loads a published `tokenizer.json`.

  The stop token is `eos_token`, else the one that `tokenizer_config.json` in
  the same folder names, else the first usual name that the vocabulary holds.

  Args:
    path: the file, or the folder that holds it.
    eos_token: text of the stop token.

  Returns:
    A `Tokenizer`; padding is 0 when the folder names no padding token.

  Raises:
    ImportError: without the `tokenizers` package.
    FileNotFoundError: if there is no such file.
    ValueError: if it cannot be read, or its stop token is not found.
  """
  tokenizers = _require('tokenizers')
  if os.path.isdir(path):
    path = os.path.join(path, 'tokenizer.json')
  _require_file(path)
  try:
    model = tokenizers.Tokenizer.from_file(path)
  except Exception as error:  # The package raises bare Exception.
    raise ValueError(f'{path} is no tokenizer.json: {error}') from error
  config = _special_tokens(os.path.dirname(path))
  if eos_token is None:
    eos_token = config.get('eos_token')
  names = _EOS_NAMES if eos_token is None else (eos_token,)
  found = [model.token_to_id(name) for name in names]
  eos_id = next((i for i in found if i is not None), None)
  if eos_id is None:
    raise ValueError(
        f'{path} holds no stop token {" or ".join(names)}: pass eos_token')
  pad_id = model.token_to_id(config.get('pad_token') or '')

  def encode(text):
    return model.encode(text, add_special_tokens=False).ids

  def decode(ids):
    return model.decode([int(i) for i in ids], skip_special_tokens=True)

  # Added tokens may leave holes, so counting the entries is not enough.
  size = max(model.get_vocab(with_added_tokens=True).values()) + 1
  return Tokenizer(f'hf:{path}', size, eos_id, pad_id or 0, encode, decode)


def tokenizer(spec: str) -> Tokenizer:
  """A tokenizer by name.

  Args:
    spec: 'byte', 'sentencepiece:PATH' or 'hf:PATH'.

  Returns:
    A `Tokenizer`.

  Raises:
    ValueError: for another name.

  Example:
    >>> tokenizer('byte').vocab_size
    264
  """
  kind, _, path = spec.partition(':')
  loaders = {'sentencepiece': sentencepiece_tokenizer, 'hf': hf_tokenizer}
  if spec == 'byte':
    return byte_tokenizer()
  if kind in loaders and path:
    return loaders[kind](path)
  near = difflib.get_close_matches(kind, ['byte', *loaders], 1)
  hint = f'; did you mean {near[0]!r}?' if near else ''
  raise ValueError(
      f"tokenizer is {spec!r}, but must be 'byte', 'sentencepiece:PATH' or "
      f"'hf:PATH'{hint}")


def _require(package):
  """Imports an optional package, or says how to get it."""
  try:
    return importlib.import_module(package)
  except ImportError as error:
    raise ImportError(
        f'this tokenizer needs the {package} package: '
        "pip install 'policyopt[train]'") from error


def _require_file(path):
  if not os.path.isfile(path):
    raise FileNotFoundError(f'no tokenizer file at {path}')


def _special_tokens(folder):
  """Names of the special tokens in `tokenizer_config.json`, {} without one."""
  path = os.path.join(folder, 'tokenizer_config.json')
  if not os.path.isfile(path):
    return {}
  with open(path, encoding='utf-8') as file:
    config = json.load(file)
  names = {}
  for key in ('eos_token', 'pad_token'):
    token = config.get(key)
    names[key] = token.get('content') if isinstance(token, dict) else token
  return names
