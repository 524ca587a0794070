"""GRPO with truncated importance sampling on the demo task.

"Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", Yao et
al., 2025, https://fengyao.notion.site/off-policy-rl; with the clip around the
learner's own policy, "AReaL: A Large-Scale Asynchronous Reinforcement Learning
System for Language Reasoning", Fu et al., 2025, arXiv 2505.24298.
Cost as in configs/grpo.py and one more forward pass of the policy. It is also
what a sampler with rounded weights or cache wants:

  python experiments/train.py --config=configs/grpo_tis.py --workdir=runs/tis \
      [--config.rollout.weights=int8 --config.rollout.cache=int8]
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'grpo'
  config.method_kw.update(
      old='old_log_probs', importance='token', importance_cap=2.)
  return common.adjust(config, arg)
