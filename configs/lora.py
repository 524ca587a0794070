"""GRPO on the demo task that trains a low-rank adapter only.

"LoRA: Low-Rank Adaptation of Large Language Models", Hu et al., 2021,
arXiv 2106.09685. The warm start trains the weights and leaves the adapter off;
then reinforcement learning trains the adapter and nothing else. The reference
model, if a method asks for one, is the policy with its adapter taken off: it
takes no memory. Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/lora.py --workdir=runs/lora
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'grpo'
  config.method_kw.update(std='sample', eps=1e-6, clip_low=0.2, clip_high=0.2)
  config.model.kw.update(lora_rank=8, lora_alpha=16.)
  # b begins at zero: an adapter takes larger steps than whole weights do, but
  # at 8e-3 this task unlearns.
  config.optimizer.learning_rate = 2e-3
  return common.adjust(config, arg)
