"""Copy this file to begin an experiment of your own.

Say here what it is about (paper, idea), what it costs and how to run it:

  python experiments/train.py --config=configs/forkme.py --workdir=runs/forkme

Every key of configs/common.py may be set below, and on the command line as
`--config.KEY=VALUE`; a key that does not exist is an error.
"""

from configs import common


def get_config(arg=''):
  config = common.base()

  # The task: any generator of reasoning-gym with its own parameters, or
  # 'arithmetic', whose verifier runs on the device.
  common.set_task(
      config, 'reasoning_gym:chain_sum', min_terms=2, max_terms=2,
      min_digits=1, max_digits=2, max_prompt=16,
      # What surrounds a problem costs a byte-level model tokens.
      replace=[('State the final answer to the following arithmetic '
                'problem: ', '')])
  config.sampler.max_tokens = 5

  # The policy.
  config.model.preset = 'tiny'
  config.model.kw.num_layers = 4

  # The method, by its public name, and its hyper-parameters.
  config.method = 'grpo'
  config.method_kw.update(std='none', aggregation='token_mean', beta=0.01)

  # How much of it.
  config.warm_start.steps = 250
  config.prompts, config.samples, config.steps = 32, 8, 200
  config.optimizer.learning_rate = 1e-4
  return common.adjust(config, arg)
