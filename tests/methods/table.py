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
  diagnostics: names of the metrics of its own.
"""

TABLE = [
    dict(name='reinforce', kw={},
         zero_on_flat_group=False, shift_invariant=False),
    dict(name='reinforce',
         kw=dict(returns='to_go', gamma=.9, whiten=True,
                 aggregation='token_mean'),
         zero_on_flat_group=False, shift_invariant=False),
    dict(name='rloo', kw={},
         zero_on_flat_group=False, shift_invariant=True),
    dict(name='grpo', kw={},
         zero_on_flat_group=True, shift_invariant=True),
    dict(name='dr_grpo', kw=dict(max_tokens=10),
         zero_on_flat_group=True, shift_invariant=True),
    dict(name='dapo', kw={},
         zero_on_flat_group=True, shift_invariant=True),
    dict(name='dapo', kw=dict(max_length=8, buffer=4, rounds=2),
         zero_on_flat_group=False, shift_invariant=True),
    dict(name='gspo', kw={},
         zero_on_flat_group=True, shift_invariant=True),
    dict(name='gspo', kw=dict(gradient='token', beta=.01, kl_gradient='k2'),
         zero_on_flat_group=True, shift_invariant=True),
    dict(name='ppo', kw={},
         zero_on_flat_group=False, shift_invariant=False),
    dict(name='ppo',
         kw=dict(value_clip=.2, entropy_coef=.01, beta=.05, whiten=False,
                 old='old_log_probs', dual_clip=3.),
         zero_on_flat_group=False, shift_invariant=False),
]
