"""GRPO on competition problems from published weights, tested on AIME 2024.

Trains like configs/math500.py and evaluates on another data set: the 30
problems of the American Invitational Mathematics Examination of 2024, 32
responses to each. DATA as in configs/math500.py; TEST holds test.jsonl with
the fields `id`, `problem`, `answer` and `solution`.

  python experiments/train.py --config=configs/aime24.py \
      --workdir=runs/aime24 --config.model.folder=FOLDER \
      --config.task_kw.path=DATA --config.evaluation.task_kw.path=TEST

`amc23` and `minerva_math` go the same way: evaluation.task=amc23 and
evaluation.problems=40, or minerva_math and 272.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common, math500


def get_config(arg=''):
  config = math500.get_config()
  config.evaluation.update(problems=30, samples=32, every=50, task='aime24')
  config.evaluation.task_kw = ConfigDict(dict(
      path=placeholder(str), verifier='math', workers=4, timeout_s=10.,
      max_prompt=512), type_safe=False)
  return common.adjust(config, arg)
