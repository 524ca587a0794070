# %% [markdown]
# # ADORA: learning most from prompts where longer thinking pays
#
# "ADORA: Training Reasoning Models with Dynamic Advantage Estimation on
# Reinforcement Learning", 2026, arXiv:2602.10019. Whether a prompt is worth
# learning from now is read off its own rollouts: it is advantaged when its
# longest right answer is longer than its wrong ones are on average. The
# advantages of GRPO are then attenuated for the other prompts, or amplified for
# these. A small transformer tells the parity of some bits, with scratch work
# of any length before the answer: with few bits the direct answer is easy, with
# many it takes running counts. The warm start has seen few of those, so the
# policy begins with short answers, and its counts are not reliable yet.
#
# $$ A_i = w_q\, A_i^{\mathrm{GRPO}}, \qquad w_q = \begin{cases}
# 1 & L^{+}_{\max} > \bar L^{-} \\ \lambda & \text{otherwise} \end{cases}
# \quad\text{(attenuate, } \lambda = 0.1 \text{)} $$
#
# For text the paper has instead $w_q = 2$ where a prompt is advantaged and at
# most half of its answers are right, and 1 otherwise (amplify).

# %%
# %matplotlib inline
import sys

sys.path.insert(0, '..')

from experiments.figures import adora, figure

# %% [markdown]
# What was measured is loaded; `python experiments/figures/adora.py --store`
# measures again. All arms go on from the same warm start, and a seed draws the
# same problems in each of them.

# %%
records = figure.records_of(adora)

# %%
adora.plot(records)

# %% [markdown]
# Success and length of responses while training, and success on held-out
# problems at the end. The first two verdicts are about the released setting,
# which attenuates, in the first two panels; the third is about the amplifying
# one. The criterion compares the longest right answer with the mean of the
# wrong ones, so among answers whose length says nothing it still favours
# prompts where a long one was right; what GRPO does with the length tells
# whether length pays on this ground.

# %%
print('\n'.join(figure.verdicts(adora, records)))
