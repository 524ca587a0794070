"""A GRPO step of Tunix, its learner and its sampler, timed.

The argument is the case as JSON (see peer_cases.py), the last line printed the
result. Weights are random, the tokenizer is made here.
"""

import os
import pathlib
import sys
import time

# As `experiments.bench.X`, and not by their names in this folder.
sys.path[0] = str(pathlib.Path(__file__).resolve().parents[3])

from experiments.bench.sides import common  # noqa: E402

os.environ.setdefault('JAX_PLATFORMS', 'cpu')


class Words:
  """A tokenizer as Tunix asks for one: a word for each id.

  There is no first token, which would lengthen the prompts, and the id of the
  stop token is outside of the vocabulary, so that no row ends early.
  """

  def __init__(self, vocabulary: int):
    self._vocabulary = vocabulary

  def encode(self, text, **_):
    return [int(word[1:]) for word in text.split()]

  def decode(self, ids, **_):
    return common.text(ids)

  def bos_id(self):
    return None

  def eos_id(self):
    return self._vocabulary + 1

  def pad_id(self):
    return common.PAD


def make_model(spec: dict):
  """The decoder, its parameters in float32."""
  from flax import nnx
  import jax.numpy as jnp
  from tunix.models.qwen3 import model
  shape = spec['shape']
  return model.Qwen3(model.ModelConfig(
      num_layers=shape['layers'], vocab_size=spec['vocabulary'],
      embed_dim=shape['width'], hidden_dim=shape['mlp'],
      num_heads=shape['heads'], head_dim=shape['head_dim'],
      num_kv_heads=shape['kv_heads'], rope_theta=10_000, norm_eps=1e-6,
      use_tied_embedding=True, dtype=jnp.dtype(spec['dtype'])),
      rngs=nnx.Rngs(0))


def make_cluster(spec: dict, model, mesh):
  """One device in all roles."""
  import optax
  from tunix.rl import rl_cluster
  from tunix.rl.rollout.base_rollout import RolloutConfig
  role, whole = rl_cluster.Role, spec['prompts']
  return rl_cluster.RLCluster(
      actor=model, tokenizer=Words(spec['vocabulary']),
      cluster_config=rl_cluster.ClusterConfig(
          role_to_mesh={role.ACTOR: mesh, role.REFERENCE: mesh,
                        role.ROLLOUT: mesh},
          training_config=rl_cluster.RLTrainingConfig(
              actor_optimizer=optax.adamw(1e-4), eval_every_n_steps=10**6,
              max_steps=1 + spec['steps'], mini_batch_size=whole,
              train_micro_batch_size=whole // spec['microbatches'],
              rollout_micro_batch_size=whole,
              compute_logps_micro_batch_size=whole),
          rollout_config=RolloutConfig(
              max_tokens_to_generate=spec['response'], temperature=1.,
              max_prompt_length=spec['prompt'],
              kv_cache_size=spec['prompt'] + spec['response'])))


class Watch:
  """When rollouts begin and end; each waits for the update before it."""

  def __init__(self, cluster):
    from flax import nnx
    import jax
    self.begins, self.took = [], []
    generate = cluster.generate

    def timed(*args, **kwargs):
      jax.block_until_ready(nnx.state(cluster.actor_trainer.model))
      self.begins.append(time.perf_counter())
      out = generate(*args, **kwargs)
      self.took.append(1e3 * (time.perf_counter() - self.begins[-1]))
      return out
    cluster.generate = timed


def train(spec, cluster, clock) -> dict:
  """The learner's own loop, over one batch more than is timed."""
  from flax import nnx
  import jax
  from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner

  def even(prompts, completions, **_):
    return [common.reward(x) for x in completions]

  learner = GRPOLearner(
      rl_cluster=cluster, reward_fns=even,
      algo_config=GRPOConfig(num_generations=spec['samples'], beta=0.))
  watch = Watch(cluster)
  batches = [{'prompts': [common.text(ids) for ids in common.words(spec, i)]}
             for i in range(1 + spec['steps'])]
  clock.lap('build')
  start = time.perf_counter()
  learner.train(batches)
  jax.block_until_ready(nnx.state(cluster.actor_trainer.model))
  moments = [start, *watch.begins[1:], time.perf_counter()]
  took = [1e3 * (b - a) for a, b in zip(moments, moments[1:])]
  assert len(took) == len(watch.took) == len(batches), (took, watch.took)
  return dict(
      first_step_s=took[0] / 1e3, step_ms=took[1:],
      in_step_generate_ms=watch.took[1:],
      update_ms=[a - b for a, b in zip(took[1:], watch.took[1:])],
      peak_mb=common.peak_mb())


def sampler(spec, model):
  """The sampler alone; a function that draws one batch.

  A loop of Tunix lasts as long as its longest row, so lengths that differ cost
  what equal ones of the greatest length cost, and that is what runs.
  """
  from tunix.generate import sampler as generate
  shape, cells = spec['shape'], spec['prompt'] + spec['response']
  draw = generate.Sampler(model, Words(spec['vocabulary']),
                          generate.CacheConfig(
      cache_size=cells, num_layers=shape['layers'],
      num_kv_heads=shape['kv_heads'], head_dim=shape['head_dim']))
  prompts = [common.text(ids) for ids in common.words(spec, 0)
             for _ in range(spec['samples'])]

  def run():
    out = draw(prompts, max_generation_steps=spec['response'],
               max_prompt_length=spec['prompt'], temperature=1., top_p=1.,
               seed=3)
    assert all(len(row) == spec['response'] for row in out.tokens)
  return run


def measure(spec, clock):
  from flax import nnx
  import jax
  import numpy as np
  import tunix.rl.grpo.grpo_learner  # noqa: F401
  compiled = common.watch_compiles(jax)
  clock.lap('imports')
  # Not by jax.make_mesh, whose axes are explicit: its models want none such.
  mesh = jax.sharding.Mesh(
      np.asarray(jax.devices()[:1]).reshape(1, 1), ('fsdp', 'tp'))
  result = {}
  with mesh:
    model = make_model(spec)
    result['parameters'] = sum(
        x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
    if spec['steps']:
      cluster = make_cluster(spec, model, mesh)
      result |= train(spec, cluster, clock)
      # Its programs are all compiled in the first step.
      result['compile_s'] = sum(compiled)
      model = cluster.actor_trainer.model
    if spec['calls']:
      result['generate_ms'] = common.times(
          sampler(spec, model), spec['calls'])
      result.setdefault('peak_mb', common.peak_mb())
  result['versions'] = common.versions('google-tunix', 'jax', 'flax')
  return result


if __name__ == '__main__':
  common.run(measure)
