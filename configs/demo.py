"""The demo: a small model learns to spell backwards by GRPO, in
minutes on two cores.

  make demo
"""

from configs import common


def get_config(arg=''):
  return common.base(arg)
