# %% [markdown]
# # GRPO, Dr. GRPO and DAPO: what the divisions, the clip and flat groups do
#
# "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language
# Models", Shao et al., 2024, arXiv:2402.03300; "Understanding R1-Zero-Like
# Training: A Critical Perspective", Liu et al., 2025, arXiv:2503.20783; "DAPO:
# An Open-Source LLM Reinforcement Learning System at Scale", Yu et al., 2025,
# arXiv:2503.14476. GRPO divides by the group's spread and by the response's
# length; Dr. GRPO does neither. DAPO replaces groups whose responses all
# earned the same and leaves the clip more room upwards. Tabular policies show
# each of these by itself.
#
# $$ A = \frac{R - \mu}{\sigma}, \qquad
#    L = -\frac{1}{B} \sum_i \frac{1}{|y_i|} \sum_t
#    \min\left(\rho_t A_i,\;
#    \mathrm{clip}(\rho_t, 1 - \varepsilon_\mathrm{low},
#    1 + \varepsilon_\mathrm{high})\, A_i\right) $$

# %%
# %matplotlib inline
import sys

sys.path.insert(0, '..')

from experiments.figures import figure, grpo

# %% [markdown]
# The records are loaded; `python experiments/figures/grpo.py --store` measures
# again.

# %%
records = figure.records_of(grpo)

# %%
grpo.plot(records)

# %% [markdown]
# Top left and middle: how long responses are when a policy has come to a
# success rate; thinking longer does not help on this ground, so what moves the
# length is the estimator. Top right: how much a prompt counts, by its success
# rate. Bottom: what sampling new groups in place of flat ones, and a clip with
# more room upwards, do to learning, to the share of groups that teach
# something, and to entropy; dynamic sampling draws up to three times as many
# responses for a step. The verdicts compare at equal success where arms learn
# at different speeds.

# %%
print('\n'.join(figure.verdicts(grpo, records)))
