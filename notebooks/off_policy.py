# %% [markdown]
# # Learning from rows that another policy sampled
#
# "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training",
# Feng Yao et al., 2025, truncates importance weights; TOPR (Nicolas Le Roux et
# al., 2025, arXiv:2503.14286) clips the ratio of a response by the sign of its
# reward; M2PO (Haizhong Zheng, Jiawei Zhao, Beidi Chen, 2025,
# arXiv:2510.01161) bounds the second moment of the log-ratio. With tabular
# policies the expected gradient is a sum over all sequences, so the bias of
# each weight is exact; and samplers can be made wrong by known amounts, or old
# by known numbers of steps.
#
# $$ g = \min\left(\frac{\pi(y_t)}{\mu(y_t)},\ C\right) A\,\nabla \log \pi(y_t),
# \qquad y \sim \mu $$

# %%
# %matplotlib inline
import sys

sys.path.insert(0, '..')

from experiments.figures import figure, off_policy

# %% [markdown]
# What was measured is loaded; `python experiments/figures/off_policy.py
# --store` measures again.

# %%
records = figure.records_of(off_policy)

# %%
off_policy.plot(records)

# %% [markdown]
# Left, the bias of a row's expected gradient and its noise, by how far the
# sampler's logits are off; then success while learning from a sampler that is
# off, and from one that is steps behind. Bands are 95% intervals over seeds.
# The first two verdicts are of the gradients, the third is of the wrong
# sampler, the last two are of the old one.

# %%
print('\n'.join(figure.verdicts(off_policy, records)))
