# %% [markdown]
# # Every method on common ground
#
# Forty-five recipes, each with its published settings, train the same small
# decoder from the same warm start, with the same seeds, batch (16 prompts ×
# 8 responses) and learning rate, on three tasks that a program can judge:
#
# * `rules`: the policy can apply two rules, and learns which one is asked for;
# * `families`: prompts whose success rates are spread over (0, 1);
# * `modes`: every prompt has many right answers, so that pass@8 tells whether
#   diversity survives.
#
# With c of n responses right,
#
# $$ \text{pass@}k = 1 - \binom{n - c}{k} \Big/ \binom{n}{k}. $$
#
# Nothing here ranks methods in general: the tasks are tiny, and no method is
# tuned. A method that its paper runs with another learning rate, a critic that
# learns first, or data that is not its own policy's is not at home here.

# %%
# %matplotlib inline
import sys

sys.path.insert(0, '..')

from experiments.figures import comparison, figure

# %% [markdown]
# The records are loaded; `python experiments/figures/comparison.py --store`
# measures again, and goes on where it was interrupted.

# %%
records = figure.records_of(comparison)

# %%
comparison.plot(records)

# %% [markdown]
# Above: means over 16 seeds, with the 95% interval (Student) of the methods in
# colour; each grey line is another method. Left against responses sampled,
# right against the time that one seed takes on one core, sampling and
# evaluation included; pass@8 is measured on held-out prompts five times on the
# way. DAPO's reward is that of the groups it keeps, the ones with one reward
# for all left out. Below: all methods after the last step, by pass@1.

# %%
print(comparison.table(records))
