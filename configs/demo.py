"""The demo: a small model learns sums by GRPO, in minutes on two cores.

  make demo
"""

from configs import common


def get_config(arg=''):
  return common.base(arg)
