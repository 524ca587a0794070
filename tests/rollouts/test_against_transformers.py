"""The next-token distributions of `transformers`, stored and live."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.rollouts import draw, filters
from policyopt.rollouts.sampler import sample
from policyopt.types import Prompts
from tests.models import folders

with np.load(folders.FIXTURES / 'warpers.npz') as _file:
  LOGITS, PROBS = _file['logits'], _file['probs']
  SETTINGS = json.loads(str(_file['settings']))


def probs_of(logits, temperature=1.0, **settings):
  """The distribution that a token is drawn from."""
  scaled = jnp.asarray(logits) / temperature
  kept = filters.keep(scaled, **settings)
  if kept is not None:
    scaled = jnp.where(kept, scaled, -jnp.inf)
  return jax.nn.softmax(scaled, axis=-1)


def assert_same(logits, found, wanted, message=''):
  """Which of several equal logits top-p takes, `transformers` leaves open."""
  found, wanted = np.asarray(found), np.asarray(wanted)
  alone = (logits[:, :, None] == logits[:, None, :]).sum(axis=-1) == 1
  for x, y in ((found[alone], wanted[alone]),
               (np.sort(found), np.sort(wanted))):
    np.testing.assert_allclose(x, y, atol=1e-6, rtol=0, err_msg=message)


@pytest.mark.parametrize('index', range(len(SETTINGS)),
                         ids=[str(kw) for kw in SETTINGS])
def test_equal_stored_distributions(index):
  found = probs_of(LOGITS, **SETTINGS[index])
  assert_same(LOGITS, found, PROBS[index])


def test_some_logits_tie():
  assert any(len(set(row)) < len(row) for row in LOGITS.tolist())


@pytest.mark.parametrize('index', [1, 5, 7, 10, 12, 13])
def test_drawn_tokens_are_of_these_distributions(index):
  sampler = draw.SamplerConfig(**SETTINGS[index])
  keys = jax.random.split(jax.random.key(1), len(LOGITS))
  drawn = jax.jit(draw.draw, static_argnums=0)(
      sampler, jnp.asarray(LOGITS), keys, jnp.int32(3))
  wanted = PROBS[index][np.arange(len(LOGITS)), np.asarray(drawn.token)]
  assert (wanted > 0).all()
  np.testing.assert_allclose(np.exp(drawn.log_prob), wanted, atol=1e-6, rtol=0)


def test_greedy_is_one_token_when_others_tie():
  logits = jnp.array([[0., 2., 2., 1.]])
  drawn = draw.draw(
      draw.SamplerConfig(temperature=0.), logits,
      jax.random.split(jax.random.key(0), 1), jnp.int32(0))
  assert drawn.token.tolist() == [1] and drawn.log_prob.tolist() == [0.]
  assert drawn.kept.tolist() == [[2]]


@pytest.fixture(name='peer')
def _peer():
  pytest.importorskip('torch')
  pytest.importorskip('transformers')
  return folders.maker()


@pytest.mark.parametrize('seed', range(3))
def test_equal_live_distributions(peer, seed):
  logits = peer.some_logits(vocab_size=97, seed=seed)
  rng = np.random.default_rng(seed)
  settings = peer.WARPERS + [
      dict(temperature=float(rng.uniform(0.3, 2)),
           top_k=int(rng.integers(1, 60)), top_p=float(rng.uniform(0.05, 1)),
           min_p=float(rng.uniform(0, 0.5))) for _ in range(10)]
  for kw in settings:
    assert_same(logits, probs_of(logits, **kw), peer.warped(logits, **kw),
                str(kw))


def test_responses_end_as_theirs(peer, tmp_path):
  """Greedy responses with several stop tokens, the stop token included."""
  import torch
  model = peer.model_of('qwen3', vocab_size=24, head_dim=16)
  model.save_pretrained(tmp_path)
  prompts, limit = np.array([[5, 9, 4], [7, 3, 11], [20, 21, 22]]), 24
  # Tokens that do come up, so that rows stop at different places.
  free = _generate(torch, model, prompts, limit, [])
  stops = [int(free[0][5]), int(free[1][9])]
  theirs = _generate(torch, model, prompts, limit, stops)
  config, params = folders.load(tmp_path)
  out = sample(
      config, draw.SamplerConfig(temperature=0., stop_tokens=tuple(stops),
                                 max_tokens=limit), params,
      Prompts(jnp.asarray(prompts), jnp.full((3,), 3)), jax.random.key(0),
      samples=1, row_ids=jnp.arange(3))
  ours = [tokens[mask].tolist() for tokens, mask in zip(
      np.asarray(out.tokens), np.asarray(out.mask))]
  assert ours == theirs
  assert len({len(row) for row in ours}) > 1


def _generate(torch, model, prompts, limit, stops):
  rows = []
  for prompt in prompts:
    out = model.generate(
        torch.tensor(prompt[None]), max_new_tokens=limit, do_sample=False,
        eos_token_id=stops or None, pad_token_id=0)
    rows.append(out[0, len(prompt):].tolist())
  return rows
