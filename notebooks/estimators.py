# %% [markdown]
# # Bias and variance of every estimator
#
# "Simple Statistical Gradient-Following Algorithms for Connectionist
# Reinforcement Learning", Williams, 1992; "Back to Basics: Revisiting
# REINFORCE Style Optimization for Learning from Human Feedback in LLMs",
# Ahmadian et al., 2024, arXiv:2402.14740; "Understanding R1-Zero-Like
# Training: A Critical Perspective", Liu et al., 2025, arXiv:2503.20783;
# "Maximum Likelihood Reinforcement Learning", Tajwar et al., 2026,
# arXiv:2602.02710; "Approximating KL Divergence", Schulman, 2020. An advantage
# estimator is either unbiased for the policy gradient or ascends something
# else. On policies whose responses can all be listed both gradients are sums,
# so each estimator of the library is held against them. With rewards of 0 and
# 1, p the success rate of a prompt and m the right answers among the other G −
# 1, an advantage that depends on the group's count only has the mean
#
# $$ \mathbb{E}[g] = w(p)\,\nabla p, \qquad
#    w(p) = \mathbb{E}_{m \sim \mathrm{Bin}(G-1,\,p)}
#    \left[A_{\mathrm{right}}(m+1) - A_{\mathrm{wrong}}(m)\right] $$

# %%
# %matplotlib inline
import sys

sys.path.insert(0, '..')

from experiments.figures import estimators, figure

# %% [markdown]
# The records are loaded; `python experiments/figures/estimators.py --store`
# measures again, on a million responses for each estimator.

# %%
records = figure.records_of(estimators)

# %%
print(estimators.table(records))

# %%
estimators.plot(records)

# %% [markdown]
# Top left: how far each mean lies from what theory says of it; left of the
# dashed line it agrees. Top middle: how much of its gradient a prompt is given
# by each method, 1 being the policy gradient. Top right and bottom left: what
# is paid for it, in bias for ∇J and in noise; grey estimators have no short
# formula for their mean. Bottom: values of KL estimators, which should lie at
# 1, and the bias of their gradients; blue ones are terms of the loss that
# lower KL(π ‖ π_ref) token by token, red ones terms that do not, green ones
# are in the reward. On two tokens even a right term of the loss misses what
# the first token does to the divergence of the second. The verdicts test all
# of this. MaxRL is tested twice: the sum of pass@k / k that its paper states
# ends at k = G; once the mean is subtracted and a group without a right answer
# teaches nothing, theory has it end at G − 1.

# %%
print('\n'.join(figure.verdicts(estimators, records)))
