"""GRPO on conversations: a walk to a goal, one move and one reply a turn.

The task, its replies and its rewards are a JAX program
(policyopt/envs/synthetic/gridworld.py). About six minutes on two cores:

  python experiments/train.py --config=configs/gridworld.py --workdir=runs/grid
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  common.set_task(config, 'gridworld', side=4, walls=1, turns=8, wrong=0.8)
  config.tokenizer = 'characters:0123456789udlr*#@'
  config.model.preset = 'nano'
  # Eight moves of one token and seven replies of three.
  config.sampler.max_tokens = 29
  config.warm_start.update(steps=300, rows=64, length=160)
  config.warm_start.optimizer.learning_rate = 2e-3
  config.optimizer.learning_rate = 5e-4
  config.steps = 150
  return common.adjust(config, arg)
