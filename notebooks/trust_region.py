# %% [markdown]
# # Surrogates when a batch serves several updates
#
# "Proximal Policy Optimization Algorithms", John Schulman, Filip Wolski,
# Prafulla Dhariwal, Alec Radford, Oleg Klimov, 2017, arXiv:1707.06347, and
# what came after it: GSPO (arXiv:2507.18071) takes one ratio for a response,
# CISPO (arXiv:2506.13585) clips the weight and keeps the gradient, Clip-Cov
# and KL-Cov (arXiv:2505.22617) hold back the few tokens that make the policy
# certain; GMPO, SAPO, DPPO and VESPO bound the ratio in ways of their own.
# With tabular policies and eight updates a batch each of them acts as
# published, and all else is the same.
#
# $$ L = -\min\left(\rho_t A_t,\
# \mathrm{clip}(\rho_t,\ 1 - \epsilon_{\text{low}},\ 1 + \epsilon_{\text{high}})
# \, A_t\right), \qquad
# \rho_t = \frac{\pi(y_t)}{\pi_{\text{old}}(y_t)} $$

# %%
# %matplotlib inline
import sys

sys.path.insert(0, '..')

from experiments.figures import figure, trust_region

# %% [markdown]
# What was measured is loaded; `python experiments/figures/trust_region.py
# --store` measures again.

# %%
records = figure.records_of(trust_region)

# %%
trust_region.plot(records)

# %% [markdown]
# Left, success averaged over training for every surrogate, each with the
# learning rate that suits it; then success and entropy of those that the
# verdicts compare; right, how the noise of a gradient grows as the policy
# moves away from the one that sampled, with the ratios of tokens and with the
# ratio of the response, neither of them clipped. Bands and bars are 95%
# intervals over seeds.

# %%
print('\n'.join(figure.verdicts(trust_region, records)))
