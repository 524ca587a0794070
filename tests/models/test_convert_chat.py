"""Chat prompts of published tokenizers, as `transformers` makes them."""

import json
import shutil

import pytest

from policyopt.models import chat, tokenizer
from tests.models import folders

CHATS = sorted(path.parent.name
               for path in folders.FIXTURES.glob('*/chats.json'))
USER = [{'role': 'user', 'content': 'hi'}]


def _cases(name):
  return json.loads((folders.FIXTURES / name / 'chats.json').read_text())


@pytest.mark.parametrize('name', CHATS)
def test_ids_equal_the_stored_ones(name):
  words = tokenizer.tokenizer(f'hf:{folders.FIXTURES / name}')
  for case in _cases(name):
    assert words.chat(case['messages'], **case['kw']) == case['ids']
  assert len(_cases(name)) >= 6


@pytest.mark.parametrize('name', CHATS)
def test_live_ids(name):
  pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  folder = str(folders.FIXTURES / name)
  theirs = transformers.AutoTokenizer.from_pretrained(folder)
  ours = tokenizer.hf_tokenizer(folder)
  for text in ('2 + 2', 'Wie geht’s?\n\n', '  ', 'a<|im_end|>b<eos>', '{{x}}'):
    for messages in (
        [dict(role='user', content=text)],
        [dict(role='system', content=text), dict(role='user', content=text)],
        [dict(role='user', content=text), dict(role='assistant', content=text),
         dict(role='user', content=text)]):
      wanted = theirs.apply_chat_template(
          messages, tokenize=True, add_generation_prompt=True,
          date_string='today')
      found = ours.chat(messages, date_string='today')
      assert found == wanted['input_ids']
  assert ours.encode('12 + 30') == theirs.encode(
      '12 + 30', add_special_tokens=False)


@pytest.mark.parametrize('name, stops', [
    ('chat_gemma3', ('<eos>', '<end_of_turn>')),
    ('chat_llama3_2', ('<|eot_id|>', '<|eom_id|>')),
    ('qwen3', ('<|im_end|>', '<|endoftext|>'))])
def test_stop_tokens_are_those_of_generation(name, stops):
  words = tokenizer.hf_tokenizer(str(folders.FIXTURES / name))
  ids = [words.encode(text) for text in stops]
  assert words.stop_tokens == tuple(i for row in ids for i in row)
  assert words.eos_id == words.stop_tokens[0]


def test_one_stop_token_without_generation_config(tmp_path):
  folder = folders.copy('chat_gemma3', tmp_path)
  (folder / 'generation_config.json').unlink()
  words = tokenizer.hf_tokenizer(str(folder))
  assert words.stop_tokens == (words.eos_id,)


def test_a_stop_token_beyond_the_vocabulary_is_refused(tmp_path):
  folder = folders.copy('chat_gemma3', tmp_path)
  (folder / 'generation_config.json').write_text('{"eos_token_id": [1, 9999]}')
  with pytest.raises(ValueError, match='eos_token_id 9999, which is no id'):
    tokenizer.hf_tokenizer(str(folder))


def test_no_template_no_chat(tmp_path):
  folder = folders.copy('chat_gemma3', tmp_path)
  (folder / 'chat_template.jinja').unlink()
  assert tokenizer.hf_tokenizer(str(folder)).chat is None
  assert tokenizer.byte_tokenizer().chat is None


@pytest.mark.parametrize('where', ['jinja', 'json', 'list', 'config'])
def test_places_of_a_template(where, tmp_path):
  template = '{{ messages[0].content }}!'
  config = {}
  if where == 'jinja':
    (tmp_path / 'chat_template.jinja').write_text(template)
    config['chat_template'] = 'another'
  elif where == 'json':
    (tmp_path / 'chat_template.json').write_text(
        json.dumps({'chat_template': template}))
  elif where == 'list':
    config['chat_template'] = [
        {'name': 'tool_use', 'template': 'another'},
        {'name': 'default', 'template': template}]
  else:
    config['chat_template'] = template
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps(config))
  assert chat.folder_template(str(tmp_path)) == template


def test_templates_without_a_default_are_refused(tmp_path):
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps(
      {'chat_template': [{'name': 'rag', 'template': ''}]}))
  with pytest.raises(ValueError, match='templates rag, none of them named'):
    chat.folder_template(str(tmp_path))


@pytest.mark.parametrize('template, text', [
    ('{{ {"a": "<ü>"} | tojson }}', '{"a": "<ü>"}'),
    ('{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}'
     '{% endfor %}', '01'),
    ('a\n  {% if true %}\nb\n  {% endif %}\nc', 'a\nb\nc'),
    ('[{% generation %}{{ messages[0].role }}{% endgeneration %}]', '[user]'),
    ('{{ strftime_now("%Y")|length }}', '4'),
    ('{{ bos_token }}{{ nothing }}', '<s>'),
    ('{{ tools is none }}{{ documents is none }}', 'TrueTrue')])
def test_conventions(template, text):
  assert chat.renderer(template, {'bos_token': '<s>'})(USER) == text


@pytest.mark.parametrize('template, message', [
    ('{% for %}', 'cannot be compiled'),
    ('{{ raise_exception("no system role") }}', 'refuses .*no system role'),
    ('{{ messages.append(1) }}', 'refuses the messages'),
    ('{{ messages.__class__.__mro__ }}', 'refuses the messages')])
def test_bad_templates(template, message):
  with pytest.raises(ValueError, match=message):
    chat.renderer(template, {})(USER)


def test_sentencepiece_chat(tmp_path):
  """Special tokens of the template become ids, what is between them text."""
  pytest.importorskip('sentencepiece')
  spm = tokenizer.train_sentencepiece(
      ['the cat sat on the mat', '12 + 30 = 42'] * 9, 300,
      str(tmp_path / 'tokenizer.model'))
  (tmp_path / 'chat_template.jinja').write_text(
      '{{ messages[0].content }}{{ eos_token }} the cat')
  words = tokenizer.tokenizer(f'hf:{tmp_path}')
  assert words.chat([dict(role='user', content='12 = 12')]) == [
      *spm.encode('12 = 12'), spm.eos_id, *spm.encode(' the cat')]
  shutil.rmtree(tmp_path)
