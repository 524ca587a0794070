"""GRPO on your own problems: a file with one JSON object per line.

Two fields are enough, a question and its answer, and a verifier: 'math'
(LaTeX in \\boxed{}, by math-verify), 'gsm8k' (a number after ####), 'exact'
(the text itself), or any Python function of (response, reference) that
returns a score in [0, 1], named 'module:function'.

  python experiments/train.py --config=configs/jsonl.py --workdir=runs/own \
      --config.model.folder=FOLDER --config.task_kw.path=problems.jsonl \
      --config.task_kw.question=prompt --config.task_kw.answer=target \
      --config.task_kw.verifier=my_package.judge:judge

One question in eight is held out, by a hash of its text. With a folder that
holds train.jsonl and test.jsonl set task_kw.held_out=None.
"""

from ml_collections.config_dict import placeholder

from configs import common


def get_config(arg=''):
  config = common.base()
  common.set_task(
      config, 'jsonl', path=placeholder(str), question='question',
      answer='answer', verifier='math', template=placeholder(str),
      held_out=0.125, workers=4, timeout_s=10., max_prompt=512,
      too_long='drop')
  common.from_published_weights(config)
  config.sampler.max_tokens = 1024
  config.evaluation.update(problems=128, samples=4, every=50)
  return common.adjust(config, arg)
