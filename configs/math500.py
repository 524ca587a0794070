"""GRPO on competition problems from published weights, tested on MATH-500.

"Let's Verify Step by Step", Lightman et al., 2023, arXiv 2305.20050, whose
split of MATH has 12,000 problems to train on and 500 to test. FOLDER holds a
published model; DATA holds train.jsonl and test.jsonl with the fields
`problem`, `answer` and `solution`, as openai/prm800k publishes them in
prm800k/math_splits.

  python experiments/train.py --config=configs/math500.py \
      --workdir=runs/math500 --config.model.folder=FOLDER \
      --config.task_kw.path=DATA

Answers are LaTeX in \\boxed{}, judged by math-verify. A well-formed response
(task_kw.format) earns a little of its own. Harder problems only:
task_kw.where={'level': (4, 5)} in a copy of this file.
"""

from ml_collections.config_dict import placeholder

from configs import common


def get_config(arg=''):
  config = common.base()
  common.set_task(
      config, 'math500', path=placeholder(str), verifier='math',
      format=placeholder(str), format_weight=0.1, workers=8, timeout_s=10.,
      max_prompt=512, too_long='drop')
  common.from_published_weights(config)
  config.sampler.max_tokens = 2048
  config.evaluation.update(problems=480, samples=4, every=50)
  return common.adjust(config, arg)
