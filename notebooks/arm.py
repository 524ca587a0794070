# %% [markdown]
# # ARM: what is known too well counts less
#
# "Back to Basics: Revisiting Exploration in Reinforcement Learning for LLM
# Reasoning via Generative Probabilities", Pengyi Li, Elizaveta Goncharova,
# Andrey Kuznetsov, Ivan Oseledets, 2026, arXiv:2602.05281. GRPO reinforces what
# is already likely. ARM takes from each response what the policy is sure of, so
# that right but unlikely answers gain. Tabular policies start here with one of
# six right answers known far too well, so that the number of right answers that
# samples find is exact. The published text gives no α; 0.3 is the library's.
#
# $$ A_i = \frac{R_i - \mu}{\sigma + \varepsilon} + \alpha\,(c_q - c_i), \qquad
#    c_i = \exp\Bigl( \tfrac{1}{|T_i|} \sum_{t \in T_i} \log \pi(y_{i,t})
#    \Bigr), \quad T_i \text{ the 20\% least probable tokens} $$

# %%
# %matplotlib inline
import sys

sys.path.insert(0, '..')

from experiments.figures import arm, figure

# %% [markdown]
# The stored records are loaded; all arms have the same learning rate. `python
# experiments/figures/arm.py --store` measures again.

# %%
records = figure.records_of(arm)

# %%
arm.plot(records)

# %% [markdown]
# Left: how many of the six right answers are found in 32 samples. Middle: the
# entropy of sequences. Right: the success rate. The verdicts test each of them
# after training, for the α that the library has by default; of the first two,
# effects below a stated size do not count as reproduced.

# %%
print('\n'.join(figure.verdicts(arm, records)))
