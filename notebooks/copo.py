# %% [markdown]
# # COPO: learning from groups whose answers agree
#
# "COPO: Consistency-Aware Policy Optimization", Jinghang Han, Jiawei Chen, Hang
# Shao, Hao Ma, Mingcheng Li, Xintian Shen, Lihao Zheng, Wei Chen, Tao Wei,
# Lihua Zhang, 2025, arXiv:2508.04138. A group whose answers all agree teaches
# GRPO nothing, right or wrong. COPO also compares the prompts of the batch with
# each other, and lets that count the more, the more the answers of a group
# agree. Here most groups agree from the start: prompts are bandits, half of
# them nearly hopeless with one wrong answer that comes nearly always, and a
# quarter nearly solved.
#
# $$ L = -\sum_i \left[ w_i\, \mathrm{clip}(\rho_i, A_i)
# + (1 - w_i)\, \mathrm{clip}(\rho_i, G_q) \right], \qquad
# w = \sigma\left(k\,(H_q - b)\right) \text{, and } 0 \text{ where } R_i = 0 $$
#
# with $A$ the advantage within the group, $G_q$ that of the prompt within the
# batch, and $H_q$ the entropy of the answers of the group in bits.

# %%
# %matplotlib inline
import sys

sys.path.insert(0, '..')

from experiments.figures import copo, figure

# %% [markdown]
# What was measured is loaded; `python experiments/figures/copo.py --store`
# measures again. Every arm trains at each learning rate of the same grid, and
# its best one is shown.

# %%
records = figure.records_of(copo)

# %%
copo.plot(records)

# %% [markdown]
# From the left: the success rate of all prompts, that of the most frequent of
# eight answers, the success rate of the half that begins nearly hopeless, and
# how many prompts a batch moves at all. The verdicts compare COPO with GRPO on
# the first, the second and the last panel. A gradient is there for every
# prompt; whether it helps is another question. Prompts share nothing here, so
# moving away from a wrong answer leads to all others in proportion to what
# they are, and nothing that one prompt learns helps another.

# %%
print('\n'.join(figure.verdicts(copo, records)))
