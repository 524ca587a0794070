"""Names and layouts: our parameters <-> the tensors of a published folder.

Projections are stored there as [out, in] with heads and their features in one
dimension, a tensor for each layer; here as [in, heads, features], all layers
in one array.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from policyopt.models.config import ModelConfig

_PREFIXES = ('model.', 'language_model.model.', 'model.language_model.')
# The half of a Gemma 3 model that sees images; only text is read here.
_VISION = ('vision_tower.', 'multi_modal_projector.', 'model.vision_tower.',
           'model.multi_modal_projector.')


class Entry(NamedTuple):
  """Where one of our parameters lies.

  Attributes:
    path: ours, such as ('layers', 'query').
    name: theirs, with {layer} and {expert} where there is one tensor for each.
    dims: for each dimension of theirs, the dimensions of ours in it (counted
      without those that `name` spells out).
    part: (index, count): ours is that part of their dimension 1; for gate and
      up projections of experts in one tensor.
  """
  path: tuple[str, ...]
  name: str
  dims: tuple[tuple[int, ...], ...]
  part: tuple[int, int] = (0, 1)

  @property
  def spelled(self) -> int:
    """How many leading dimensions of ours the name spells out."""
    return ('{layer}' in self.name) + ('{expert}' in self.name)

  def names(self, shape):
    """Every (index into the spelled dimensions, name) of a parameter."""
    layers = range(shape[0]) if '{layer}' in self.name else (None,)
    for layer in layers:
      if '{expert}' in self.name:
        for expert in range(shape[1]):
          yield (layer, expert), self.name.format(layer=layer, expert=expert)
      elif layer is None:
        yield (), self.name
      else:
        yield (layer,), self.name.format(layer=layer)

  def their_shape(self, shape) -> tuple[int, ...]:
    """The shape of each of their tensors, given that of our parameter."""
    ours = shape[self.spelled:]
    theirs = [math.prod(ours[d] for d in dims) for dims in self.dims]
    if self.part[1] > 1:
      theirs[1] *= self.part[1]
    return tuple(theirs)


class Layout(NamedTuple):
  """How a folder names things.

  Attributes:
    prefix: before 'layers.'.
    head: name of the output head's tensor.
    fused: whether all experts of a layer are in one tensor.
    sparse: name of the block with the experts.
    experts: names of gate, up and down in an expert.
  """
  prefix: str = 'model.'
  head: str = 'lm_head.weight'
  fused: bool = False
  sparse: str = 'mlp'
  experts: tuple[str, str, str] = ('gate_proj', 'up_proj', 'down_proj')


def published_layout(model_type: str) -> Layout:
  """The layout that folders of a family have on the hub."""
  if model_type == 'mixtral':
    return Layout(sparse='block_sparse_moe', experts=('w1', 'w3', 'w2'))
  return Layout()


def find_layout(names, model_type: str) -> Layout:
  """The layout of a folder that holds tensors of these names.

  Args:
    names: of all tensors.
    model_type: as in config.json.

  Returns:
    The family's own layout where nothing says otherwise.
  """
  layout = published_layout(model_type)
  names = set(names)
  for prefix in _PREFIXES:
    if f'{prefix}embed_tokens.weight' in names:
      layout = layout._replace(prefix=prefix)
  if layout.prefix == 'language_model.model.':
    layout = layout._replace(head='language_model.lm_head.weight')
  if any('.mlp.experts.' in name for name in names):
    layout = layout._replace(sparse='mlp')
  if any(name.endswith('.experts.gate_up_proj') for name in names):
    layout = layout._replace(fused=True)
  elif any(name.endswith('.gate_proj.weight') for name in names
           if '.experts.' in name):
    layout = layout._replace(experts=Layout().experts)
  return layout


def is_ignored(name: str, model_type: str, tied: bool, layout: Layout) -> bool:
  """Whether a tensor of a folder is rightly left unread.

  Args:
    name: of the tensor.
    model_type: as in config.json.
    tied: whether the output head is the embedding; some folders store it
      twice.
    layout: of the folder.
  """
  return ((model_type == 'gemma3' and name.startswith(_VISION))
          or name.endswith('.rotary_emb.inv_freq')
          or (tied and name == layout.head))


def entries(config: ModelConfig, layout: Layout) -> list[Entry]:
  """Where each parameter of a model lies; value head and adapters do not.

  Args:
    config: of the model.
    layout: of the folder.

  Returns:
    One Entry per parameter.
  """
  block = f'{layout.prefix}layers.{{layer}}.'
  found = [
      Entry(('embedding',), f'{layout.prefix}embed_tokens.weight',
            ((0,), (1,))),
      Entry(('final_norm',), f'{layout.prefix}norm.weight', ((0,),))]
  if not config.tied_embeddings:
    found.append(Entry(('head',), layout.head, ((1,), (0,))))

  def add(ours, theirs, *dims, part=(0, 1)):
    found.append(Entry(('layers', ours), block + theirs, dims, part))

  for ours, theirs in _norms(config):
    whole = config.qk_norm_whole and ours in ('query_norm', 'key_norm')
    add(ours, f'{theirs}.weight', (0, 1) if whole else (0,))
  for ours, theirs in (('query', 'q_proj'), ('key', 'k_proj'),
                       ('value', 'v_proj')):
    add(ours, f'self_attn.{theirs}.weight', (1, 2), (0,))
    if config.qkv_bias:
      add(f'{ours}_bias', f'self_attn.{theirs}.bias', (0, 1))
  add('out', 'self_attn.o_proj.weight', (2,), (0, 1))
  if config.num_experts:
    _add_experts(add, layout)
  else:
    for ours in 'gate', 'up', 'down':
      add(ours, f'mlp.{ours}_proj.weight', (1,), (0,))
  return found


def _norms(config):
  norms = [('attention_norm', 'input_layernorm')]
  if config.post_norms:
    norms += [('post_attention_norm', 'post_attention_layernorm'),
              ('mlp_norm', 'pre_feedforward_layernorm'),
              ('post_mlp_norm', 'post_feedforward_layernorm')]
  else:
    norms.append(('mlp_norm', 'post_attention_layernorm'))
  if config.qk_norm:
    norms += [('query_norm', 'self_attn.q_norm'),
              ('key_norm', 'self_attn.k_norm')]
  return norms


def _add_experts(add, layout):
  add('router', f'{layout.sparse}.gate.weight', (1,), (0,))
  experts = f'{layout.sparse}.experts.'
  ours = 'expert_gate', 'expert_up', 'expert_down'
  if layout.fused:
    for index, name in enumerate(ours[:2]):
      add(name, f'{experts}gate_up_proj', (0,), (2,), (1,), part=(index, 2))
    add(ours[2], f'{experts}down_proj', (0,), (2,), (1,))
    return
  for name, theirs in zip(ours, layout.experts):
    add(name, f'{experts}{{expert}}.{theirs}.weight', (1,), (0,))
