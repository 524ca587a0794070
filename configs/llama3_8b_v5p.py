"""GRPO for a model of the Llama 3 8B shape on a v5p slice.

"The Llama 3 Herd of Models", Llama Team, 2024, arXiv 2407.21783. Rows of 4,096
tokens, master weights and adamw in float32, computing in bfloat16; every layer
is recomputed in the backward pass. FOLDER and DATA as in configs/gsm8k.py.

  python experiments/compile_for_tpu.py --config=configs/llama3_8b_v5p.py \
      --topology=v5p:4x4x4
  python experiments/train.py --config=configs/llama3_8b_v5p.py \
      --workdir=runs/llama --config.model.folder=FOLDER \
      --config.task_kw.path=DATA

A microbatch has 256 rows: 4 on each of 64 chips, which hold a 64th of the
weights each. The sampler has a copy of them in bfloat16 that is made anew every
step, an eighth on each chip. Other slices may want another `rollout.mesh`;
experiments/aot/README.md lists what fits where.
"""

from ml_collections.config_dict import placeholder

from configs import common


def get_config(arg=''):
  config = common.base()
  common.set_task(
      config, 'gsm8k', path=placeholder(str), verifier='gsm8k', workers=16,
      timeout_s=5., max_prompt=512, too_long='drop')
  common.from_published_weights(config)
  config.model.preset = 'llama3.1-8b'
  config.model.kw.update(
      dtype='bfloat16', remat='full', logit_chunk=512, max_length=4096)
  config.mesh.update(data=1, fsdp=-1)
  config.rollout.mesh.tensor = 8
  config.rollout.dtype = 'bfloat16'
  config.sampler.max_tokens = 3584
  config.update(prompts=128, samples=8)
  config.batching.microbatches = 4
  config.evaluation.update(problems=1319, samples=4, every=50)
  return common.adjust(config, arg)
