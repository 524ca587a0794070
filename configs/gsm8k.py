"""GRPO on GSM8K from published weights.

"Training Verifiers to Solve Math Word Problems", Cobbe et al., 2021, arXiv
2110.14168. FOLDER holds config.json, safetensors and the tokenizer of a
published model; DATA holds train.jsonl and test.jsonl with the fields
`question` and `answer`, as openai/grade-school-math publishes them.

  python experiments/train.py --config=configs/gsm8k.py --workdir=runs/gsm8k \
      --config.model.folder=FOLDER --config.task_kw.path=DATA
  python experiments/export.py --workdir=runs/gsm8k --out=EXPORTED

The prompt follows the tokenizer's chat template where it has one and asks for
the answer after `####`; a response without it earns nothing. For a base model
set task_kw.verifier='gsm8k_flexible', which reads the last number. Prompts
and responses of up to 320 + 512 tokens. For a data set of tfds in the same
form add --config.task=tfds:NAME, and give its data_dir as the path.
"""

from ml_collections.config_dict import placeholder

from configs import common


def get_config(arg=''):
  config = common.base()
  common.set_task(
      config, 'gsm8k', path=placeholder(str), verifier='gsm8k',
      answer_in='hashes', solution='answer', worked=True, workers=4,
      timeout_s=5., max_prompt=320, too_long='drop')
  common.from_published_weights(config)
  config.sampler.max_tokens = 512
  config.evaluation.update(problems=1280, samples=4, every=50)
  return common.adjust(config, arg)
