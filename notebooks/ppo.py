# %% [markdown]
# # PPO: a learned critic against the baseline of a group
#
# "Proximal Policy Optimization Algorithms", Schulman et al., 2017,
# arXiv:1707.06347, with "High-Dimensional Continuous Control Using Generalized
# Advantage Estimation", Schulman et al., 2015, arXiv:1506.02438. A group's
# baseline gives all tokens of a response the same credit. A critic gives each
# its own, at the price of having to be learned; λ trades the noise of the
# return against the critic's errors. The reward here is a share of five bits,
# so that credit by token is worth something, and both policy and critic are
# tables.
#
# $$ \delta_t = r_t + \gamma V_{t+1} - V_t, \qquad
#    A_t = \delta_t + \gamma\lambda\, A_{t+1} $$

# %%
# %matplotlib inline
import sys

sys.path.insert(0, '..')

from experiments.figures import figure, ppo

# %% [markdown]
# The records are loaded; `python experiments/figures/ppo.py --store` measures
# again.

# %%
records = figure.records_of(ppo)

# %%
ppo.plot(records)

# %% [markdown]
# Left and middle: learning of each arm at the learning rate that suits it best
# (in brackets). The exact critic is told the values of the policy as it is,
# and shows what a perfect critic would be worth. Right: how far the learned
# critics are from those values. The verdicts compare rewards over training.

# %%
print('\n'.join(figure.verdicts(ppo, records)))
