"""Text to token ids and back: bytes, sentencepiece, published tokenizers.

Any other tokenizer is one `Tokenizer(...)` away. Id 0 is padding in every
vocabulary built here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
import difflib
import io
import os
import re
from typing import NamedTuple

from policyopt.models import chat

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
    chat: messages -> ids of a prompt, or None without a chat template. Each
      message is a dict with 'role' and 'content'; the ids end where the answer
      begins, special tokens included, and are never made from text again.
      Other keyword arguments reach the template (`enable_thinking=False`).
    other_stops: further stop tokens that the published model ends with.
  """
  name: str
  vocab_size: int
  eos_id: int
  pad_id: int
  encode: Callable[[str], list[int]]
  decode: Callable[[Sequence[int]], str]
  chat: Callable[..., list[int]] | None = None
  other_stops: tuple[int, ...] = ()

  @property
  def stop_tokens(self) -> tuple[int, ...]:
    """All ids that end a response, `eos_id` first."""
    return (self.eos_id, *self.other_stops)


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
  sentencepiece = chat.require('sentencepiece', 'this tokenizer')
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
    path: the `.model` file, or the folder that holds `tokenizer.model`.

  Returns:
    A `Tokenizer`; padding is 0 when the model names no padding token.

  Raises:
    ImportError: without the `sentencepiece` package.
    FileNotFoundError: if there is no such file.
    ValueError: if it is no such model, or names no end-of-text token.
  """
  sentencepiece = chat.require('sentencepiece', 'this tokenizer')
  folder = os.path.dirname(path)
  if os.path.isdir(path):
    folder, path = path, os.path.join(path, 'tokenizer.model')
  _require_file(path)
  try:
    model = sentencepiece.SentencePieceProcessor(model_file=path)
  except (RuntimeError, OSError) as error:
    raise ValueError(f'{path} is no sentencepiece model: {error}') from error
  if model.eos_id() < 0:
    raise ValueError(f'{path} names no end-of-text token')
  size = model.vocab_size()
  special = {model.id_to_piece(i): i for i in range(size)
             if model.is_control(i)}
  pattern = re.compile('|'.join(map(re.escape, special)) or '(?!)')

  def encode_special(text):
    """Text with special tokens in it; the model itself reads past those."""
    ids, end = [], 0
    for match in pattern.finditer(text):
      ids += model.encode(text[end:match.start()]) + [special[match.group()]]
      end = match.end()
    return ids + model.encode(text[end:])

  def decode(ids):
    return model.decode([
        i for i in map(int, ids) if 0 <= i < size
        and not model.is_control(i) and not model.is_unused(i)])

  eos = model.eos_id()
  tokens = dict(eos_token=model.id_to_piece(eos))
  if model.bos_id() >= 0:
    tokens['bos_token'] = model.id_to_piece(model.bos_id())
  return Tokenizer(
      f'sentencepiece:{path}', size, eos, max(model.pad_id(), 0), model.encode,
      decode, _chat(folder, tokens, encode_special),
      _other_stops(folder, eos, size))


def hf_tokenizer(path: str, *, eos_token: str | None = None) -> Tokenizer:
  """Loads a published `tokenizer.json`.

  The stop token is `eos_token`, else the one that `tokenizer_config.json` in
  the same folder names, else the first usual name that the vocabulary holds.
  `generation_config.json` may name further ones.

  Args:
    path: the file, or the folder that holds it; a folder with only a
      `tokenizer.model` is read by `sentencepiece_tokenizer`.
    eos_token: text of the stop token.

  Returns:
    A `Tokenizer`; padding is 0 when the folder names no padding token.

  Raises:
    ImportError: without the `tokenizers` package.
    FileNotFoundError: if there is no such file.
    ValueError: if it cannot be read, or its stop token is not found.
  """
  folder = os.path.dirname(path)
  if os.path.isdir(path):
    folder, path = path, os.path.join(path, 'tokenizer.json')
    if not os.path.exists(path) and os.path.isfile(
        os.path.join(folder, 'tokenizer.model')):
      return sentencepiece_tokenizer(folder)
  tokenizers = chat.require('tokenizers', 'this tokenizer')
  _require_file(path)
  try:
    model = tokenizers.Tokenizer.from_file(path)
  except Exception as error:  # The package raises bare Exception.
    raise ValueError(f'{path} is no tokenizer.json: {error}') from error
  tokens = chat.special_tokens(folder)
  if eos_token is None:
    eos_token = tokens.get('eos_token')
  names = _EOS_NAMES if eos_token is None else (eos_token,)
  found = [model.token_to_id(name) for name in names]
  eos_id = next((i for i in found if i is not None), None)
  if eos_id is None:
    raise ValueError(
        f'{path} holds no stop token {" or ".join(names)}: pass eos_token')
  pad_id = model.token_to_id(tokens.get('pad_token') or '')

  def encode(text):
    return model.encode(text, add_special_tokens=False).ids

  def decode(ids):
    return model.decode([int(i) for i in ids], skip_special_tokens=True)

  # Added tokens may leave holes, so counting the entries is not enough.
  size = max(model.get_vocab(with_added_tokens=True).values()) + 1
  return Tokenizer(
      f'hf:{path}', size, eos_id, pad_id or 0, encode, decode,
      _chat(folder, tokens, encode), _other_stops(folder, eos_id, size))


def _chat(folder, tokens, encode):
  """Messages -> ids by the folder's chat template; None without one."""
  template = chat.folder_template(folder)
  if template is None:
    return None
  render = chat.renderer(template, tokens, f'the chat template in {folder}')

  def chat_ids(messages, **variables):
    return encode(render(messages, **variables))

  return chat_ids


def _other_stops(folder, eos_id, size):
  """The stop tokens of `generation_config.json` besides the stop token."""
  path = os.path.join(folder, 'generation_config.json')
  ids = chat.read_json(path).get('eos_token_id') or []
  ids = ids if isinstance(ids, list) else [ids]
  for i in ids:
    if not isinstance(i, int) or not 0 <= i < size:
      raise ValueError(
          f'{path} has eos_token_id {i!r}, which is no id of its vocabulary '
          f'of {size} tokens')
  return tuple(i for i in dict.fromkeys(ids) if i != eos_id)


def tokenizer(spec: str) -> Tokenizer:
  """A tokenizer by name.

  Args:
    spec: 'byte', 'characters:ALPHABET', 'sentencepiece:PATH' or 'hf:PATH'.

  Returns:
    A `Tokenizer`.

  Raises:
    ValueError: for another name.

  Example:
    >>> tokenizer('byte').vocab_size
    264
  """
  kind, _, path = spec.partition(':')
  from policyopt.models import characters  # It builds on this file.
  loaders = {'characters': characters.character_tokenizer,
             'sentencepiece': sentencepiece_tokenizer, 'hf': hf_tokenizer}
  if spec == 'byte':
    return byte_tokenizer()
  if kind in loaders and path:
    return loaders[kind](path)
  near = difflib.get_close_matches(kind, ['byte', *loaders], 1)
  hint = f'; did you mean {near[0]!r}?' if near else ''
  raise ValueError(
      f"tokenizer is {spec!r}, but must be 'byte', 'characters:ALPHABET', "
      f"'sentencepiece:PATH' or 'hf:PATH'{hint}")


def _require_file(path):
  if not os.path.isfile(path):
    raise FileNotFoundError(f'no tokenizer file at {path}')
