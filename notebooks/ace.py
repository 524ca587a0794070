# %% [markdown]
# # ACE: over-confident errors need a stronger correction
#
# "Overconfident Errors Need Stronger Correction: Asymmetric Confidence
# Penalties for Reinforcement Learning", Yuanda Xu, Hejian Sang, Zhengze Zhou,
# Ran He, Zhipeng Wang, 2026, arXiv:2602.21420. A wrong answer that training has
# made more likely than the reference policy held it gets a larger negative
# advantage; right ones are left alone. Tabular policies start here with most of
# their chance on one wrong answer that their reference does not favour; that
# chance and pass@k are exact sums. The published text gives no α; 1 is the
# library's.
#
# $$ A_i \leftarrow A_i\,\bigl(1 + \alpha \log(1 + e^{c_i})\bigr)
#    \text{ where } A_i < 0, \qquad
#    c_i = \frac{1}{T_i} \sum_t \log \frac{\pi(y_{i,t})}{\pi_{ref}(y_{i,t})} $$

# %%
# %matplotlib inline
import sys

sys.path.insert(0, '..')

from experiments.figures import ace, figure

# %% [markdown]
# The stored records of all arms are loaded, each with the learning rate of one
# grid that served it best on other seeds; `python experiments/figures/ace.py
# --store` measures again.

# %%
records = figure.records_of(ace)

# %%
ace.plot(records)

# %% [markdown]
# From left to right: the chance of the over-confident error, the success rate
# and the entropy of sequences while training, and pass@k after it. The verdicts
# test pass@32 with ACE against without, on GRPO and on DAPO, and how soon the
# error loses its chance. Prompts share no parameters here, so large steps harm
# little: the grid of learning rates ends where scores have become flat.

# %%
print('\n'.join(figure.verdicts(ace, records)))
