# %% [markdown]
# # CAPO: bearing learning rates that break GRPO
#
# "Stabilizing Policy Gradients for Sample-Efficient Reinforcement Learning in
# LLM Reasoning", Luckeciano C. Melo, Alessandro Abate, Yarin Gal, 2025,
# arXiv:2510.00819. A model of the output layer and of its optimizer predicts
# what an update on one token would do to the objective and to the policy;
# tokens for which that is too much are left out. Here the policy is nothing
# but an output layer on fixed random hidden states that all prompts share, so
# what CAPO models is all that moves, and large steps do harm because prompts
# interfere.
#
# $$ m_H = \eta A\,(v \cdot u) + \tfrac12 \eta^2 A
# \left[(v \cdot u)^2 - \mathrm{Var}_\pi(u)\right], \qquad
# m_F = \tfrac12 \eta^2 (v \cdot u)^2, \qquad
# \text{kept: } |m_H| < \tau_H,\ m_F < \tau_F $$

# %%
# %matplotlib inline
import sys

sys.path.insert(0, '..')

from experiments.figures import capo, figure

# %% [markdown]
# What was measured is loaded; `python experiments/figures/capo.py --store`
# measures again.

# %%
records = figure.records_of(capo)

# %%
capo.plot(records)

# %% [markdown]
# Left, success by the number of responses that were sampled, which is what the
# aggressive regime saves; in the middle, the tokens that CAPO leaves out;
# right, where each arm ends. Bands and bars are 95% intervals over seeds. The
# first verdict compares both methods where steps are large and batches small,
# the second asks whether that regime pays at all, the third whether rejections
# become rarer.

# %%
print('\n'.join(figure.verdicts(capo, records)))
