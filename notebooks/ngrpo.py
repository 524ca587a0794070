# %% [markdown]
# # NGRPO: learning from groups that are all wrong
#
# "NGRPO: Negative-enhanced Group Relative Policy Optimization", Gongrui Nan,
# Siye Chen, Jing Huang, Mengyu Lu, Dexun Wang, Chunmei Xie, Weiqi Xiong,
# Xianzhou Zeng, Qixuan Zhou, Yadong Li, Xingzhong Xu, 2025, arXiv:2509.18851.
# A group whose answers are all wrong teaches GRPO nothing. NGRPO lets a
# virtual, perfect answer join every group, so that such a group pushes the
# policy away from what it does. Here prompts are tabular policies for which
# the one right sequence is so rare that nearly all groups are all wrong at
# first; success and pass@k are exact sums, without sampling noise.
#
# $$ A_i = \frac{R_i - \mu^+}{\sigma^+ + \varepsilon}, \qquad
#    \mu^+, \sigma^+ \text{ of } R_1, \dots, R_G, r_{\max} $$

# %%
# %matplotlib inline
import sys

sys.path.insert(0, '..')

from experiments.figures import figure, ngrpo

# %% [markdown]
# The stored records of all arms are loaded, each with the learning rate of one
# grid that served it best on other seeds;
# `python experiments/figures/ngrpo.py --store` measures again.

# %%
records = figure.records_of(ngrpo)

# %%
ngrpo.plot(records)

# %% [markdown]
# Left: the share of groups that have a gradient, which for NGRPO are all but
# those that are all right. Then the success rate and the entropy of sequences
# while training, and pass@k after it. Entropy falls with what has been
# learned, so an arm that solves more prompts also has less of it. The verdicts
# test the area under pass@k, the entropy, and what the asymmetric clip adds.

# %%
print('\n'.join(figure.verdicts(ngrpo, records)))
