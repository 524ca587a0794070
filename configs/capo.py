"""CAPO on the demo task.

"Stabilizing Policy Gradients for Sample-Efficient Reinforcement Learning in
LLM Reasoning", Melo, Abate, Gal, 2025, arXiv 2510.00819.
Cost as in configs/grpo.py, and one more forward pass per step.

  python experiments/train.py --config=configs/capo.py --workdir=runs/capo
"""

from configs import common
from policyopt.models.presets import preset


def get_config(arg=''):
  config = common.base()
  # The method keeps moments of the output layer, so it must know its shape;
  # stated here, the shape is the same whatever the preset becomes.
  model = preset(config.model.preset)
  config.model.kw.update(vocab_size=model.vocab_size, width=model.width)
  config.method = 'capo'
  # The published limits, of a model thirty times as wide, reject a tenth of
  # the tokens here.
  config.method_kw.update(
      tau_h=0.05, tau_f=1e-3, optimizer_model='adam',
      b1=config.optimizer.kw.b1, b2=config.optimizer.kw.b2)
  # References: what changes the model, on the command line too, changes both.
  config.method_kw.vocab_size = config.model.kw.get_ref('vocab_size')
  config.method_kw.width = config.model.kw.get_ref('width')
  return common.adjust(config, arg)
