"""Chat templates of published tokenizers, as `transformers` renders them.

A template comes with the weights, so it is run in jinja2's sandbox.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import datetime
import importlib
import json
import os
from typing import Any

# What a template may call the special tokens of its tokenizer.
SPECIAL = ('bos_token', 'eos_token', 'unk_token', 'sep_token', 'pad_token',
           'cls_token', 'mask_token')


def folder_template(folder: str) -> str | None:
  """The default chat template of a tokenizer folder, None without one.

  chat_template.jinja goes before chat_template.json, which goes before the
  key of tokenizer_config.json.

  Args:
    folder: of a published tokenizer.

  Returns:
    The text of the template.

  Raises:
    ValueError: for several templates none of which is named 'default'.
  """
  path = os.path.join(folder, 'chat_template.jinja')
  if os.path.isfile(path):
    with open(path, encoding='utf-8') as file:
      return file.read()
  for name in ('chat_template.json', 'tokenizer_config.json'):
    template = read_json(os.path.join(folder, name)).get('chat_template')
    if isinstance(template, list):
      template = {item['name']: item['template'] for item in template}
    if isinstance(template, dict):
      if 'default' not in template:
        raise ValueError(
            f'{os.path.join(folder, name)} has the chat templates '
            f'{", ".join(sorted(template))}, none of them named default')
      template = template['default']
    if template is not None:
      return template
  return None


def special_tokens(folder: str) -> dict[str, str]:
  """Names of the special tokens in `tokenizer_config.json`, {} without one.

  Args:
    folder: of a published tokenizer.

  Returns:
    The text of each token of `SPECIAL` that the folder names.
  """
  config = read_json(os.path.join(folder, 'special_tokens_map.json'))
  config |= read_json(os.path.join(folder, 'tokenizer_config.json'))
  names = {}
  for key in SPECIAL:
    token = config.get(key)
    token = token.get('content') if isinstance(token, dict) else token
    if token is not None:
      names[key] = token
  return names


def renderer(template: str, variables: Mapping[str, Any],
             name: str = 'the chat template') -> Callable[..., str]:
  """Compiles a chat template.

  Args:
    template: jinja2 text.
    variables: what it may read besides the messages, such as bos_token.
    name: of the template, for error messages.

  Returns:
    render(messages, add_generation_prompt=True, **more) -> text; `messages`
    are dicts with 'role' and 'content', `more` overrides the variables.

  Raises:
    ImportError: without the `jinja2` package.
    ValueError: for a template that is none, or that refuses the messages.

  Example:
    >>> render = renderer(
    ...     '{{ bos_token }}{% for m in messages %}[{{ m.role }}]'
    ...     '{{ m.content }}{% endfor %}'
    ...     '{% if add_generation_prompt %}[assistant]{% endif %}',
    ...     {'bos_token': '<s>'})
    >>> render([{'role': 'user', 'content': '1 + 1 ?'}])
    '<s>[user]1 + 1 ?[assistant]'
  """
  jinja2 = require('jinja2', 'a chat template')
  environment = _environment()
  try:
    compiled = environment.from_string(template)
  except jinja2.TemplateError as error:
    raise ValueError(f'{name} cannot be compiled: {error}') from error

  def render(messages: Sequence[Mapping[str, Any]],
             add_generation_prompt: bool = True, **more) -> str:
    given = dict(tools=None, documents=None) | dict(variables) | more
    try:
      return compiled.render(
          messages=messages, add_generation_prompt=add_generation_prompt,
          **given)
    except jinja2.TemplateError as error:
      raise ValueError(f'{name} refuses the messages: {error}') from error

  return render


def _environment():
  """The sandbox with what `transformers` puts into it."""
  jinja2 = importlib.import_module('jinja2')
  extension = importlib.import_module('jinja2.ext')
  nodes = importlib.import_module('jinja2.nodes')
  sandbox = importlib.import_module('jinja2.sandbox')

  class Generation(extension.Extension):
    """{% generation %} ... {% endgeneration %} renders what is inside."""
    tags = {'generation'}

    def parse(self, parser):
      line = next(parser.stream).lineno
      body = parser.parse_statements(['name:endgeneration'], drop_needle=True)
      return nodes.Scope(body, lineno=line)

  def raise_exception(message):
    raise jinja2.TemplateError(message)

  def tojson(x, ensure_ascii=False, indent=None, separators=None,
             sort_keys=False):
    # jinja2's own filter escapes HTML.
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent,
                      separators=separators, sort_keys=sort_keys)

  def strftime_now(form):
    return datetime.datetime.now().strftime(form)

  environment = sandbox.ImmutableSandboxedEnvironment(
      trim_blocks=True, lstrip_blocks=True,
      extensions=[Generation, extension.loopcontrols])
  environment.filters['tojson'] = tojson
  environment.globals['raise_exception'] = raise_exception
  environment.globals['strftime_now'] = strftime_now
  return environment


def require(package: str, what: str):
  """Imports an optional package, or says how to get it."""
  try:
    return importlib.import_module(package)
  except ImportError as error:
    raise ImportError(
        f'{what} needs the {package} package: '
        "pip install 'policyopt[train]'") from error


def read_json(path: str) -> dict[str, Any]:
  """The object in a JSON file, {} when there is no such file.

  Raises:
    ValueError: naming the file, when it holds something else.
  """
  if not os.path.isfile(path):
    return {}
  try:
    with open(path, encoding='utf-8') as file:
      content = json.load(file)
  except ValueError as error:
    raise ValueError(f'{path} is not JSON: {error}') from error
  if not isinstance(content, dict):
    raise ValueError(f'{path} must hold a JSON object')
  return content
