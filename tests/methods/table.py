"""One row per method; `test_every_method.py` runs every test on every row.

  name: of the recipe.
  kw: its keyword arguments here.
  zero_on_flat_group: all-equal rewards in a group give advantage exactly 0.
  shift_invariant: adding a constant to all rewards changes no advantage.
  rewards: 'binary' if the method is only defined for right and wrong.
  golden: the files of vectors that prove it.
  reduces_to: what it equals at a special setting: dict(kw=..., to=name,
    to_kw=..., scale=1., parts=(...)), `kw` being added to the row's own, and
    `parts` what is compared, times `scale`.
  counts_observations: its result depends on tokens that were not chosen.
  diagnostics: names of the metrics of its own.
  bandit: the success that it reaches on the bandit at least (0.6).
"""

from tests.methods import (
    table_advantages,
    table_base,
    table_preferences,
    table_surrogates,
)

TABLE = [
    *table_base.ROWS, *table_surrogates.ROWS, *table_advantages.ROWS,
    *table_preferences.ROWS]
