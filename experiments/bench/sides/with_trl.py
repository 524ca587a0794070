"""A GRPO step of TRL's GRPOTrainer with a decoder of transformers, timed.

The argument is the case as JSON (see peer_cases.py), the last line printed the
result. Nothing is downloaded: weights are random, the tokenizer is made here.
"""

import contextlib
import copy
import os
import pathlib
import sys
import tempfile
import time

# As `experiments.bench.X`, and not by their names in this folder.
sys.path[0] = str(pathlib.Path(__file__).resolve().parents[3])

from experiments.bench.sides import common  # noqa: E402

os.environ |= dict(HF_HUB_OFFLINE='1', TRL_EXPERIMENTAL_SILENCE='1',
                   TOKENIZERS_PARALLELISM='false', CUDA_VISIBLE_DEVICES='')


def make_tokenizer(spec: dict):
  """One word for each id."""
  from tokenizers import Tokenizer, models, pre_tokenizers
  from transformers import PreTrainedTokenizerFast
  names = {f'w{i}': i for i in range(common.FIRST_WORD, spec['vocabulary'])}
  names |= {'<pad>': common.PAD, '<eos>': common.EOS}
  made = Tokenizer(models.WordLevel(names, unk_token='<pad>'))
  made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  return PreTrainedTokenizerFast(
      tokenizer_object=made, pad_token='<pad>', eos_token='<eos>')


def make_model(spec: dict):
  """The decoder, its parameters in float32."""
  import torch
  from transformers import Qwen3Config, Qwen3ForCausalLM
  shape = spec['shape']
  torch.manual_seed(0)
  return Qwen3ForCausalLM(Qwen3Config(
      vocab_size=spec['vocabulary'], hidden_size=shape['width'],
      num_hidden_layers=shape['layers'], num_attention_heads=shape['heads'],
      num_key_value_heads=shape['kv_heads'], head_dim=shape['head_dim'],
      intermediate_size=shape['mlp'], max_position_embeddings=2048,
      tie_word_embeddings=True, pad_token_id=common.PAD,
      eos_token_id=common.EOS, bos_token_id=None))


def make_trainer(spec: dict, model, tokenizer, folder: str):
  """GRPOTrainer: one optimizer update for each batch of responses."""
  from datasets import Dataset
  from trl import GRPOConfig, GRPOTrainer
  rows = spec['prompts'] * spec['samples']
  steps = 1 + spec['steps']
  args = GRPOConfig(
      output_dir=folder, use_cpu=True, report_to='none',
      bf16=spec['dtype'] == 'bfloat16', save_strategy='no',
      logging_strategy='no', disable_tqdm=True, max_steps=steps,
      per_device_train_batch_size=rows // spec['microbatches'],
      gradient_accumulation_steps=spec['microbatches'],
      num_generations=spec['samples'], learning_rate=1e-4,
      max_completion_length=spec['response'], beta=0.,
      generation_kwargs=dict(min_new_tokens=spec['response']),
      # Its default computes the forward pass twice, to save memory.
      gradient_checkpointing=False)
  prompts = [common.text(ids) for step in range(steps)
             for ids in common.words(spec, step)]

  def even(completions, **_):
    return [common.reward(x) for x in completions]

  return GRPOTrainer(
      model=model, reward_funcs=even, args=args, processing_class=tokenizer,
      train_dataset=Dataset.from_dict({'prompt': prompts}))


class Watch:
  """Times of the ends of steps, and of what a trainer spends on rollouts."""

  def __init__(self, trainer):
    from transformers import TrainerCallback
    self.ends, self.rollouts, self.generations = [], [], []
    watch = self

    class Callback(TrainerCallback):
      def on_step_end(self, *_, **__):
        watch.ends.append(time.perf_counter())

    trainer.add_callback(Callback())
    self._wrap(trainer, '_generate_and_score_completions', self.rollouts)
    self._wrap(trainer, '_generate_single_turn', self.generations)

  @staticmethod
  def _wrap(trainer, name, record):
    method = getattr(trainer, name)

    def timed(*args, **kwargs):
      start = time.perf_counter()
      out = method(*args, **kwargs)
      record.append(1e3 * (time.perf_counter() - start))
      return out
    setattr(trainer, name, timed)


class Ends:
  """Ends each row where it is to end, whatever the model says."""

  def __init__(self, lengths, prompt):
    import torch
    self.lengths, self.prompt = torch.tensor(lengths), prompt

  def __call__(self, ids, scores):
    drawn = ids.shape[1] - self.prompt + 1
    last = (self.lengths <= drawn)[:, None]
    stop = scores.new_full(scores.shape, float('-inf'))
    stop[:, common.EOS] = 0
    scores[:, common.EOS] = float('-inf')
    return stop.where(last, scores)


def generate(spec: dict, model, tokenizer, dtype=None):
  """transformers.generate alone; a function that draws one batch.

  Args:
    spec: of the case.
    model: with its weights in the dtype to compute in, or `dtype` set.
    tokenizer: reads the prompts as text, as the trainer does.
    dtype: to compute in by autocast.
  """
  import torch
  from transformers import LogitsProcessorList
  prompts = [common.text(ids) for ids in common.words(spec, 0)
             for _ in range(spec['samples'])]
  lengths, limit = common.lengths(spec), spec['response']
  forced = dict(min_new_tokens=limit)
  if spec['lengths'] != 'equal':
    forced = dict(logits_processor=LogitsProcessorList(
        [Ends(lengths, spec['prompt'])]))
  cast = (torch.autocast('cpu', dtype) if dtype else contextlib.nullcontext())

  def run():
    inputs = tokenizer(prompts, return_tensors='pt')
    with torch.no_grad(), cast:
      ids = model.generate(
          input_ids=inputs['input_ids'],
          attention_mask=inputs['attention_mask'], max_new_tokens=limit,
          do_sample=True, top_k=0, **forced)
    assert ids.shape[1] == spec['prompt'] + max(lengths), ids.shape
  return run


def measure_generate(spec, model, tokenizer) -> list[float]:
  """By the faster of two ways, when the dtype is not that of the weights."""
  import torch
  model = copy.deepcopy(model).eval()
  ways = [generate(spec, model, tokenizer)]
  if spec['dtype'] == 'bfloat16':
    ways = [generate(spec, copy.deepcopy(model).to(torch.bfloat16), tokenizer),
            generate(spec, model, tokenizer, torch.bfloat16)]
  return min((common.times(way, spec['calls']) for way in ways),
             key=lambda found: sorted(found)[len(found) // 2])


def measure(spec, clock):
  import torch
  import trl  # noqa: F401
  import trl.trainer.grpo_trainer  # noqa: F401
  clock.lap('imports')
  result, model, tokenizer = {}, make_model(spec), make_tokenizer(spec)
  result['parameters'] = sum(x.numel() for x in model.parameters())
  if spec['steps']:
    with tempfile.TemporaryDirectory() as folder:
      trainer = make_trainer(spec, model, tokenizer, folder)
      watch = Watch(trainer)
      clock.lap('build')
      start = time.perf_counter()
      trainer.train()
    ends = [start, *watch.ends]
    took = [1e3 * (b - a) for a, b in zip(ends, ends[1:])]
    result['step_ms'] = took[1:]
    result['first_step_s'] = took[0] / 1e3
    result['in_step_generate_ms'] = watch.generations[1:]
    result['update_ms'] = [
        step - rollout for step, rollout in zip(took[1:], watch.rollouts[1:])]
    result['peak_mb'] = common.peak_mb()
    assert len(took) == len(watch.rollouts) == 1 + spec['steps'], watch.rollouts
  if spec['calls']:
    result['generate_ms'] = measure_generate(spec, model, tokenizer)
    result.setdefault('peak_mb', common.peak_mb())
  result['threads'] = torch.get_num_threads()
  result['versions'] = common.versions('trl', 'transformers', 'torch')
  return result


if __name__ == '__main__':
  common.run(measure)
