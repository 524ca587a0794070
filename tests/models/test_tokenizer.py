"""Round trips, special tokens, and errors that say what to do."""

import json
import sys

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from policyopt.models import tokenizer

TEXTS = [
    'What is 12 + 30 = ?\n', '  two  spaces\tand a tab ', 'naïve café Ω ∑ 漢字',
    'emoji 🙂 and e\u0301', '', 'a\r\nb']
CORPUS = ['the cat sat on the mat', '12 + 30 = 42', 'naïve café', 'x y z'] * 9
UNICODE = st.text(st.characters(exclude_categories=['Cs']), max_size=20)


@pytest.fixture(name='sentencepiece_file', scope='module')
def _sentencepiece_file(tmp_path_factory):
  path = str(tmp_path_factory.mktemp('spm') / 'tiny.model')
  tokenizer.train_sentencepiece(CORPUS, 300, path)
  return path


@pytest.fixture(name='hf_folder', scope='module')
def _hf_folder(tmp_path_factory):
  tokenizers = pytest.importorskip('tokenizers')
  folder = tmp_path_factory.mktemp('hf')
  model = tokenizers.Tokenizer(tokenizers.models.BPE())
  model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
      add_prefix_space=False)
  model.decoder = tokenizers.decoders.ByteLevel()
  model.train_from_iterator(CORPUS, tokenizers.trainers.BpeTrainer(
      vocab_size=300, show_progress=False,
      initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
      special_tokens=['<pad>', '<|endoftext|>', '<|im_end|>']))
  model.save(str(folder / 'tokenizer.json'))
  return folder


@pytest.fixture(name='each', params=['byte', 'sentencepiece', 'hf'])
def _each(request):
  if request.param == 'byte':
    return tokenizer.tokenizer('byte')
  if request.param == 'hf':
    return tokenizer.tokenizer(f'hf:{request.getfixturevalue("hf_folder")}')
  path = request.getfixturevalue('sentencepiece_file')
  return tokenizer.tokenizer(f'sentencepiece:{path}')


@pytest.mark.parametrize('text', TEXTS)
def test_round_trip(each, text):
  ids = each.encode(text)
  assert all(isinstance(i, int) and 0 <= i < each.vocab_size for i in ids)
  assert each.eos_id not in ids and each.pad_id not in ids
  assert each.decode(ids) == text
  assert each.decode(np.asarray(ids, np.int32)) == text


def test_special_tokens_are_not_text(each):
  ids = each.encode('42')
  padded = [*ids, each.eos_id, each.pad_id, each.pad_id]
  assert each.decode(padded) == '42'
  assert each.pad_id == 0 and 0 < each.eos_id < each.vocab_size


def test_any_ids_decode(each):
  assert isinstance(each.decode(range(each.vocab_size)), str)


@settings(max_examples=100, deadline=None)
@given(UNICODE)
def test_bytes_round_trip(text):
  byte = tokenizer.byte_tokenizer()
  ids = byte.encode(text)
  assert len(ids) == len(text.encode()) and byte.decode(ids) == text


def test_invalid_bytes_become_replacement_characters():
  byte = tokenizer.byte_tokenizer()
  assert byte.decode(byte.encode('é')[:1] + byte.encode('a')) == '\ufffda'
  assert byte.vocab_size % 8 == 0


def test_sentencepiece_learns_and_loads_again(sentencepiece_file):
  spm = tokenizer.sentencepiece_tokenizer(sentencepiece_file)
  assert 259 < spm.vocab_size <= 300
  assert len(spm.encode('the cat')) < 7
  with pytest.raises(ValueError, match='vocab_size is 200'):
    tokenizer.train_sentencepiece(CORPUS, 200, sentencepiece_file)


def test_hf_stop_token(hf_folder, tmp_path):
  names = {'<|endoftext|>': 1, '<|im_end|>': 2}
  file = str(hf_folder / 'tokenizer.json')
  assert tokenizer.hf_tokenizer(file).eos_id == 2  # The usual order.
  assert tokenizer.hf_tokenizer(file, eos_token='<|endoftext|>').eos_id == 1
  with pytest.raises(ValueError, match='no stop token <none>'):
    tokenizer.hf_tokenizer(file, eos_token='<none>')
  (tmp_path / 'tokenizer.json').write_bytes(
      (hf_folder / 'tokenizer.json').read_bytes())
  for name, expected in names.items():
    for token in (name, {'content': name}):
      (tmp_path / 'tokenizer_config.json').write_text(
          json.dumps({'eos_token': token, 'pad_token': '<|endoftext|>'}))
      hf = tokenizer.hf_tokenizer(str(tmp_path))
      assert (hf.eos_id, hf.pad_id) == (expected, 1)


@pytest.mark.parametrize('spec, error, message', [
    ('bite', ValueError, "did you mean 'byte'"),
    ('sentencepiece', ValueError, "must be 'byte'"),
    ('sentencepiece:missing.model', FileNotFoundError, 'at missing.model'),
    ('hf:missing', FileNotFoundError, 'at missing')])
def test_wrong_specs(spec, error, message):
  with pytest.raises(error, match=message):
    tokenizer.tokenizer(spec)


@pytest.mark.parametrize('kind', ['sentencepiece', 'hf'])
def test_a_broken_file_is_named(kind, tmp_path):
  path = tmp_path / 'broken'
  path.write_text('{}')
  with pytest.raises(ValueError, match=r'broken is no '):
    tokenizer.tokenizer(f'{kind}:{path}')


@pytest.mark.parametrize('kind, package', [
    ('sentencepiece', 'sentencepiece'), ('hf', 'tokenizers')])
def test_a_missing_package_names_the_extra(kind, package, monkeypatch):
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(ImportError, match=rf'{package} .*policyopt\[train\]'):
    tokenizer.tokenizer(f'{kind}:x')
