"""GRPO on a task of pure functions, so that a run can be one program.

A flag in front of six digits says whether to copy or to reverse them; the warm
start has shown both, whatever the flag said. A policy of 0.2M parameters.

  python experiments/seeds.py --config=configs/rules.py --seeds=16
  python experiments/train.py --config=configs/rules.py --workdir=runs/rules
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  common.set_task(config, 'rules', digits=6, rules=2)
  config.tokenizer = 'characters:0123456789abcd='
  config.sampler.max_tokens = 7
  config.model.preset = 'nano'
  config.model.kw.update(
      vocab_size=24, num_layers=2, width=96, num_heads=4, num_kv_heads=4,
      head_dim=24, mlp_width=256, max_length=64)
  config.warm_start.update(steps=250, examples=256, rows=64, length=64)
  config.warm_start.optimizer.update(learning_rate=1e-3, warmup_steps=0)
  config.method = 'grpo'
  config.method_kw.update(beta=0.0, clip_low=0.2, clip_high=0.28)
  config.prompts, config.samples, config.steps = 32, 8, 200
  config.optimizer.update(learning_rate=3e-4, warmup_steps=20)
  config.evaluation.update(problems=256, samples=8)
  return common.adjust(config, arg)
