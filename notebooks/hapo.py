# %% [markdown]
# # HAPO: the entropy of a token decides how it is treated
#
# "From Uniform to Heterogeneous: Tailoring Policy Optimization to Every
# Token's Nature", Zheng Liu, Mengjie Liu, Siwei Wen, Mengzhang Cai, Bin Cui,
# Conghui He, Wentao Zhang, 2025, arXiv:2509.16591. In every stage of DAPO the
# entropy of the token's distribution enters: sampling is hotter where it is
# high (A), the baseline is a mean over tokens (B), and both the advantage (C)
# and the clip (D) depend on it. Here undecided forks and nearly certain
# fillers take turns in tabular policies, which is the structure that the
# method is made for, and DAPO gets each part by itself.
#
# $$ \hat h_t = \frac{\log H_t - \text{pivot}}{\text{scale}} \in [-1, 1], \qquad
# T_t = T\,(1 + \tau \hat h_t), \quad
# A_t \leftarrow A_t\,(1 + \beta \hat h_t), \quad
# \epsilon_{\text{low}}\,(1 - \alpha \hat h_t),\
# \epsilon_{\text{high}}\,(1 + \alpha \hat h_t) $$

# %%
# %matplotlib inline
import sys

sys.path.insert(0, '..')

from experiments.figures import figure, hapo

# %% [markdown]
# What was measured is loaded; `python experiments/figures/hapo.py --store`
# measures again.

# %%
records = figure.records_of(hapo)

# %%
hapo.plot(records)

# %% [markdown]
# The first three panels show how often responses are right, how undecided the
# forks still are, and how often a filler is wrong. Right, what each part gains
# on DAPO, as success averaged over training. Bands and bars are 95% intervals
# over seeds. The first verdict is of all of HAPO, the second of its weakest
# part, the third of what the clip is said to do to confident tokens.

# %%
print('\n'.join(figure.verdicts(hapo, records)))
