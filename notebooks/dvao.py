# %% [markdown]
# # DVAO: rewards weigh by how much they tell apart
#
# "DVAO: Dynamic Variance-adaptive Advantage Optimization for Multi-reward
# Reinforcement Learning", 2026, arXiv:2605.25604. Several rewards are
# standardised within the group, and each weighs by its standard deviation
# there, so that a reward that is the same for the whole group drops out. Two
# rewards that conflict are learned here by tabular policies: short answers are
# seldom right. Three other ways to join them are compared: the standardised sum
# of rewards, the sum of standardised rewards, and GDPO ("GDPO: Group
# reward-Decoupled Normalization Policy Optimization for Multi-reward RL
# Optimization", Liu et al., 2026, arXiv:2601.05242).
#
# $$ A_i = \sum_k \tilde w_k \frac{R_{k,i} - \mu_k}{\sigma_k}
#    = \frac{\sum_k w_k (R_{k,i} - \mu_k)}{\sum_l w_l \sigma_l}, \qquad
#    \tilde w_k = \frac{w_k \sigma_k}{\sum_l w_l \sigma_l} $$

# %%
# %matplotlib inline
import sys

sys.path.insert(0, '..')

from experiments.figures import dvao, figure

# %% [markdown]
# The stored records of all arms are loaded, each with five mixes of weights and
# the learning rate of one grid that served it best on other seeds; `python
# experiments/figures/dvao.py --store` measures again.

# %%
records = figure.records_of(dvao)

# %%
dvao.plot(records)

# %% [markdown]
# Left: where each mix of weights ends, up and to the right is better. Middle:
# the area that these points dominate, while training. Right: the largest
# squared advantage of a batch. The verdicts test the area and the advantages.

# %%
print('\n'.join(figure.verdicts(dvao, records)))
