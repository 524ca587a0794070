# %% [markdown]
# # CANON: comparing the halves of a group
#
# "Conditional Advantage Estimation for Reinforcement Learning in Large
# Reasoning Models", Guanxu Chen, Yafu Li, Yuxian Jiang, Chen Qian, Qihan Ren,
# Jingyi Yang, Yu Cheng, Dongrui Liu, Jing Shao, 2025, arXiv:2509.23962. A group
# is cut in two by the entropy or the length of its responses, and each response
# is compared with the other half and with its own. Measured is twofold: does
# the comparison by entropy find out by itself whether certain or open responses
# pay, and does the one by length shorten answers at a smaller price than a cost
# of tokens in the reward. Both worlds are tables, where the chance of every
# response, and so length and entropy, are known exactly.
#
# $$ A_i = \mu\,(R_i - \bar R_{\text{other half}})
# + (1 - \mu)\,(R_i - \bar R_{\text{own half}}) $$
#
# In the comparison by length, the first term takes $\alpha R$ for the longer
# half. With $\mu = \frac{1}{2}$ and $\alpha = 1$ it is Dr. GRPO.

# %%
# %matplotlib inline
import sys

sys.path.insert(0, '..')

from experiments.figures import canon, figure

# %% [markdown]
# What was measured is loaded; `python experiments/figures/canon.py --store`
# measures again. All arms take the same plain gradient steps; neither CANON nor
# Dr. GRPO divides by a standard deviation, so none is scaled.

# %%
records = figure.records_of(canon)

# %%
canon.plot(records)

# %% [markdown]
# The two panels on the left are the two worlds, with a curve for each $\mu$:
# where certain branches pay, a policy should leave the open ones, and where
# open ones pay it should go there. Next, the entropy of the policy against
# $\mu$. On the right, each point is one setting of $\alpha$ or of the cost, at
# the end of its training: up and to the left is better. The first two verdicts
# are about the branches, the other two about length.

# %%
print('\n'.join(figure.verdicts(canon, records)))
