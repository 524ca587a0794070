"""GRPO for a mixture of experts of the Qwen3 30B-A3B shape on a v5p slice.

"Qwen3 Technical Report", Qwen Team, 2025, arXiv 2505.09388. 128 experts of
which 8 see each token, spread over the mesh's 'expert' axis; the rest as in
configs/llama3_8b_v5p.py, and FOLDER and DATA as in configs/gsm8k.py.

  python experiments/compile_for_tpu.py --config=configs/qwen3_30b_a3b.py \
      --topology=v5p:4x4x4
  python experiments/train.py --config=configs/qwen3_30b_a3b.py \
      --workdir=runs/qwen --config.model.folder=FOLDER \
      --config.task_kw.path=DATA
"""

from configs import common, llama3_8b_v5p


def get_config(arg=''):
  config = llama3_8b_v5p.get_config()
  config.model.preset = 'qwen3-30b-a3b'
  # A half of 768 features is still a multiple of the 128 lanes of a TPU.
  config.rollout.mesh.update(tensor=2, expert=4)
  return common.adjust(config, arg)
