# %% [markdown]
# # REINFORCE and its baselines: what a baseline is worth
#
# "Back to Basics: Revisiting REINFORCE Style Optimization for Learning from
# Human Feedback in LLMs", Ahmadian et al., 2024, arXiv:2402.14740; "ReMax: A
# Simple, Effective, and Efficient Reinforcement Learning Method for Aligning
# Large Language Models", Li et al., 2023, arXiv:2310.10505; "On-Policy RL with
# Optimal Reward Baseline", Hao et al., 2025, arXiv:2505.23585; "The Optimal
# Token Baseline: Variance Reduction for Long-Horizon LLM-RL", Li et al., 2026,
# arXiv:2602.07078; "GPG: A Simple and Strong Reinforcement Learning Baseline
# for Model Reasoning", Chu et al., 2025, arXiv:2504.02546; "REINFORCE++:
# Stabilizing Critic-Free Policy Optimization with Global Advantage
# Normalization", Hu et al., 2025, arXiv:2501.03262. All of these are the
# policy gradient with another baseline b. Responses of different length on
# tabular chains let the noise of each be measured on the same policies.
#
# $$ g = \sum_t (R - b_t)\, \nabla \log \pi(y_t), \qquad
#    b^{\mathrm{RLOO}} = \frac{1}{G - 1} \sum_{j \ne i} R_j, \quad
#    b^{\mathrm{OPO}} = \frac{\sum_j n_j R_j}{\sum_j n_j}, \quad
#    b^{\mathrm{OTB}}_t = \frac{\sum_j W_{jt} R_j}{\sum_j W_{jt}} $$

# %%
# %matplotlib inline
import sys

sys.path.insert(0, '..')

from experiments.figures import figure, rloo

# %% [markdown]
# The records are loaded; `python experiments/figures/rloo.py --store` measures
# again.

# %%
records = figure.records_of(rloo)

# %%
rloo.plot(records)

# %% [markdown]
# Left: the noise of each estimator on the same policies with the same token
# weights, against REINFORCE without a baseline. Middle and right: learning
# with each recipe as it comes, at the learning rate that suits it best (in
# brackets), where answers have scores as a reward model gives them. Four
# tokens are a short horizon for a token baseline. The verdicts test the
# papers' claims on variance, and whether less noise is seen in learning.

# %%
print('\n'.join(figure.verdicts(rloo, records)))
