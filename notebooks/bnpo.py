# %% [markdown]
# # BNPO: the variance of the gradient while the policy improves
#
# "BNPO: Beta Normalization Policy Optimization", Changyi Xiao, Mengdi Zhang,
# Yixin Cao, 2025, arXiv:2506.02864. On every batch a Beta distribution is
# fitted to the success rates of the prompts, and the one that follows from it
# divides the centred rewards: of all Beta distributions it gives the gradient
# the smallest variance. Here prompts are bandits with two answers whose rates
# start spread from hopeless to easy, so that the gradient of any method can be
# estimated from many fresh batches at each moment of its training.
#
# $$ A_i = \frac{R_i - p}{\mathrm{Beta}(p;\, \alpha, \beta)}, \qquad
# \alpha = \max\left(1,\ 1 + \tfrac{1}{3} c\,\bar p\right), \quad
# \beta = \max\left(1,\ 1 + \tfrac{1}{3} c\,(1 - \bar p)\right), \quad
# c = \frac{\bar p\,(1 - \bar p)}{v} - 1 $$

# %%
# %matplotlib inline
import sys

sys.path.insert(0, '..')

from experiments.figures import bnpo, figure

# %% [markdown]
# What was measured is loaded; `python experiments/figures/bnpo.py --store`
# measures again. Each method trains policies of its own, so the curves differ
# in where the policy is as well as in what the method makes of it.

# %%
records = figure.records_of(bnpo)

# %%
bnpo.plot(records)

# %% [markdown]
# Left, the variance relative to the squared length of the mean gradient, which
# the size of the advantages does not change; in the middle, the variance
# itself; right, what was learned meanwhile. Bands are 95% intervals over
# seeds. The first verdict compares BNPO with the best of the others on the
# left. The second asks how far the curve in the middle moves from the first to
# the last quarter of training.

# %%
print('\n'.join(figure.verdicts(bnpo, records)))
