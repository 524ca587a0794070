# %% [markdown]
# # DPO and its relatives on tabular preference data
#
# "Direct Preference Optimization: Your Language Model is Secretly a Reward
# Model", Rafailov et al., 2023, arXiv:2305.18290; IPO, KTO ("KTO: Model
# Alignment as Prospect Theoretic Optimization", Ethayarajh et al., 2024,
# arXiv:2402.01306), SimPO and ORPO, and DPO with labels that may be wrong. If
# preferences follow the Bradley-Terry model of a reward, the policy that DPO's
# loss is least for can be written down. On bandits it is a vector of eight
# numbers, so the distance to it is exact.
#
# $$ \pi^*(y) \propto \pi_\mathrm{ref}(y)\, e^{r(y)/\beta}, \qquad
#    L = -\log \sigma\left(\beta \log \frac{\pi(y^+)}{\pi_\mathrm{ref}(y^+)}
#    - \beta \log \frac{\pi(y^-)}{\pi_\mathrm{ref}(y^-)}\right) $$

# %%
# %matplotlib inline
import sys

sys.path.insert(0, '..')

from experiments.figures import figure, preferences

# %% [markdown]
# The records are loaded; `python experiments/figures/preferences.py --store`
# measures again.

# %%
records = figure.records_of(preferences)

# %%
preferences.plot(records)

# %% [markdown]
# From left to right: the distance to the optimum on clean labels and where one
# label in five is wrong; the distance from the reference where few pairs leave
# no doubt about the better answer; and how often an answer is preferred to one
# of the reference. Methods with another optimum by design, IPO, SimPO, ORPO
# and KTO, are not expected to come near π*.

# %%
print('\n'.join(figure.verdicts(preferences, records)))
