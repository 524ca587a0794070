"""Which groups are replaced is the method's choice."""

import numpy as np
import pytest

from policyopt.rollouts import all_at, group
from tests.rollouts.test_group import fake_env, plan, run


def all_right_or_wrong(problem, member):
  """All right where the problem is 1 modulo 3, all wrong where it is 2."""
  return float([member == 0, True, False][problem % 3])


@pytest.mark.parametrize('prompt, used, chosen', [
    ([2, 3, 1, 6], 1, [0, 1]),    # all wrong stays
    ([1, 2, 3, 6], 2, [1, 2]),    # all right is replaced
    ([1, 4, 7, 2], 2, [0, 3])])   # as far as there is something better
def test_a_scheme_can_keep_groups_that_are_all_wrong(prompt, used, chosen):
  calls = []
  # The second channel of the environment is 0.25 everywhere.
  rollout = run(group.refill_flat_groups(2, flat=all_at(1.25)),
                fake_env(all_right_or_wrong), plan(prompt), calls)
  assert len(calls) == used
  assert rollout.extras['plan_index'].tolist() == np.repeat(chosen, 3).tolist()


def test_rows_that_were_not_scored_are_not_asked():
  total = np.array([[1., 0.], [1., 0.], [0., 0.]])
  scored = np.array([[True, False], [True, True], [False, False]])
  assert all_at(1.)(total, scored).tolist() == [True, False, True]


def test_a_rule_of_ones_own():
  seen = []

  def never(total, scored):
    seen.append((total.copy(), scored.copy()))
    return np.zeros(len(total), bool)

  run(group.refill_flat_groups(2, flat=never),
      fake_env(all_right_or_wrong, lambda *pair: int(pair == (1, 2))),
      plan([1, 2, 3, 6]))
  (total, scored), = seen
  assert total.tolist() == [[1.25, 1.25, 0.], [.25] * 3]
  assert scored.tolist() == [[True, True, False], [True] * 3]
