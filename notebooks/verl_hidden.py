# %% [markdown]
# # VERL: the rank of hidden states as a signal
#
# "Beyond the Exploration-Exploitation Trade-off: A Hidden State Approach for
# LLM Reasoning in RLVR", Fanding Huang, Guanbo Huang, Xiao Fan, Yi He, Xiao
# Liang, Xiao Chen, Qinting Jiang, Faisal Nadeem Khan, Jingyan Jiang, Zhi Wang,
# 2025, arXiv:2509.23808. The effective rank of a response's hidden states
# stands for exploration, its growth for exploitation; a bonus on the advantage
# rewards the one or the other. Hidden states matter here, so a small
# transformer is trained; its responses are shorter than its hidden states are
# wide, other than in the paper.
#
# $$ \mathrm{ER} = \exp\left(-\sum_k p_k \log p_k\right),\quad
# p_k = \frac{\sigma_k}{\sum_l \sigma_l}, \qquad
# A \leftarrow A + \min\left(\max(\Phi, 0),\ |A| / \kappa\right) $$

# %%
# %matplotlib inline
import sys

sys.path.insert(0, '..')

from experiments.figures import figure, verl_hidden

# %% [markdown]
# What was measured is loaded; `python experiments/figures/verl_hidden.py
# --store` measures again.

# %%
records = figure.records_of(verl_hidden)

# %%
verl_hidden.plot(records)

# %% [markdown]
# From the left: the reward while training; how strongly rank and growth of a
# response's hidden states hang together in GRPO's run, beside the entropy of
# its tokens and its reward; the bonus that VERL adds to an advantage on
# average; and held-out problems that one sample, or one of eight, solves at
# the end. Bands and bars are 95% intervals over seeds. The first two verdicts
# are of the last panel, the third is of the second.

# %%
print('\n'.join(figure.verdicts(verl_hidden, records)))
