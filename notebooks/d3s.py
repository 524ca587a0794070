# %% [markdown]
# # D³S: few rows, few tokens
#
# "Learning More with Less: A Dynamic Dual-Level Down-Sampling Framework for
# Efficient Policy Optimization", Chao Wang, Tao Yang, Hongtao Tian, Yunsheng
# Shi, Qiyao Ma, Xiaotao Liu, Ting Yao, Wenbo Ding, 2025, arXiv:2509.22115.
# Updates learn only from the rows whose advantages differ most, and of those
# from the tokens with the largest product of advantage and entropy; less is
# left out as training goes on. Tabular policies answer here with sequences in
# which two tokens decide and the others are nearly certain, so that success
# rates are exact. The fractions are not published; those used are the
# library's.
#
# $$ \text{rows: } \arg\max_{|S| = n} \mathrm{Var}_{i \in S}(A_i), \qquad
#    \text{tokens: the fraction } K \text{ with the largest } |A_i|\,H_{i,t},
#    \qquad n, K \text{ linear in the progress} $$

# %%
# %matplotlib inline
import sys

sys.path.insert(0, '..')

from experiments.figures import d3s, figure

# %% [markdown]
# The stored records of all arms are loaded, each with the learning rate of one
# grid that served it best on other seeds; `python experiments/figures/d3s.py
# --store` measures again.

# %%
records = figure.records_of(d3s)

# %%
d3s.plot(records)

# %% [markdown]
# Left: the success rate by step, that is by rollouts. Middle: the same by the
# number of tokens that updates have learned from. Right: the entropy of
# sequences. The verdicts test the speed by step, the tokens that a success rate
# of one half costs, and what the schedule adds.

# %%
print('\n'.join(figure.verdicts(d3s, records)))
