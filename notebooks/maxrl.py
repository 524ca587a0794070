# %% [markdown]
# # MaxRL and pass@k GRPO: training for one answer or for one of many
#
# "Maximum Likelihood Reinforcement Learning", Tajwar et al., 2026,
# arXiv:2602.02710; "Optimizing Language Models for Inference Time Objectives
# using Reinforcement Learning", Tang et al., 2025, arXiv:2503.19595. MaxRL
# divides a group's rewards by their mean, which weighs prompts as the
# logarithm of their success rate would; GRPO for pass@k credits a right answer
# only where the group has no other. Both turn towards hard prompts. The ground
# is a set of bandits from very hard to easy, and steps of equal length, so
# that what one prompt gains another does not.
#
# $$ A^{\mathrm{MaxRL}} = \frac{R - \mu}{\mu}, \qquad
#    A^{\mathrm{pass@}k} = \frac{R - R_{(2)}}{\sigma} \text{ for the best},
#    \; 0 \text{ for the others} $$

# %%
# %matplotlib inline
import sys

sys.path.insert(0, '..')

from experiments.figures import figure, maxrl

# %% [markdown]
# The records are loaded; `python experiments/figures/maxrl.py --store`
# measures again.

# %%
records = figure.records_of(maxrl)

# %%
maxrl.plot(records)

# %% [markdown]
# From left to right: eight tries at the prompts that were hard at the start,
# eight tries and one try at all prompts, and eight tries at problems that take
# only one of the right answers. The verdicts are means over training and over
# three lengths of a step; the curves show the middle one.

# %%
print('\n'.join(figure.verdicts(maxrl, records)))
