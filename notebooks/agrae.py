# %% [markdown]
# # A-GRAE: right answers held back, and what is left of the others
#
# "Unveiling Implicit Advantage Symmetry: Why GRPO Struggles with Exploration
# and Difficulty Adaptation", 2026, arXiv:2602.05548. GRPO gives the right and
# the wrong answers of a group the same total weight, so answers that nobody
# sampled stand still. A-GRAE lets the mean success $\omega$ of the batch decide
# how hard and easy prompts count, and holds right answers back while $\omega$
# is low. Measured is whether the policy keeps several right answers: prompts
# are bandits with 8 right answers out of 32, and a held-out problem takes only
# one of the 8. In a table the likelihood of every answer is known exactly.
#
# $$ \hat A_i = \tfrac{1}{2}\left(\frac{\omega}{\sqrt{p}}
# + \frac{1 - \omega}{\sqrt{1 - p}}\right) A_i^{\mathrm{GRPO}}, \qquad
# A_i = \begin{cases} \min(1,\ \omega / \alpha)\,\hat A_i & \hat A_i > 0 \\
# \hat A_i & \text{otherwise} \end{cases} $$

# %%
# %matplotlib inline
import sys

sys.path.insert(0, '..')

from experiments.figures import agrae, figure

# %% [markdown]
# What was measured is loaded; `python experiments/figures/agrae.py --store`
# measures again. All steps have the same length, as those of Adam nearly have,
# so that arms do not differ by the size of their advantages. In the arms
# 'positive-dominant' and 'negative-dominant', ablations of the paper, the
# advantages of one sign count tenfold.

# %%
records = figure.records_of(agrae)

# %%
agrae.plot(records)

# %% [markdown]
# From the left: success and entropy with steps of the middle length; pass@k of
# the held-out problems at the moment where training success reaches 0.9; and
# one first step, where each dot is a prompt: the further the advantages of its
# group sum to below zero, the more the answers gain that it did not sample.
# The first three verdicts compare diversity at equal success, success itself,
# and the two ablations; the last one is about the first step.
#
# One thing to have in mind: for rewards of 0 and 1, whatever is computed from
# the rewards of a group alone points, on average, along the gradient of that
# prompt's success rate. In a table these arms can therefore differ in how much
# each prompt counts and in their noise, but not in the mean direction of a
# prompt; in a network, where prompts share what they learn, it need not be so.

# %%
print('\n'.join(figure.verdicts(agrae, records)))
