"""The benchmark of slots, at a size where only its answers can be judged."""

import json

import numpy as np
import pytest

from experiments.bench import report, rollouts
from policyopt.models.presets import preset


@pytest.mark.slow
def test_all_sides_draw_the_same_tokens(tmp_path):
  lines = []
  result = rollouts.run(
      preset('nano', num_layers=1), prompts=4, samples=2, width=5, limit=9,
      slots=4, rounds=2, show=lines.append)
  assert len(lines) == 1 + len(result['rows']) == 6
  for row in result['rows'].values():
    for side in rollouts.SIDES[1:]:
      assert row[side]['same_tokens']
      assert row[side]['log_prob_gap'] < 1e-5
      assert len(row[side]['ratios']) == 2
    assert row['steps']['at once'] <= row['steps']['slots'] <= (
        row['steps']['batches'])
    assert 0 < row['slot_use'] <= 1
  assert result['rows']['all equal']['steps'] == {
      'slots': 17, 'at once': 9, 'batches': 18}
  page = tmp_path / 'page.md'
  page.write_text('a\n<!-- rollouts: begin -->\nold\n<!-- rollouts: end -->\nb')
  report.put(page, 'rollouts', rollouts.markdown(
      json.loads(json.dumps(result))))
  text = page.read_text()
  assert '| 85% short |' in text and 'old' not in text
  assert text.count('the same') == 5


def test_lengths_are_those_of_their_names():
  drawn = rollouts.lengths(4096, 128)
  for lengths in drawn.values():
    assert lengths.dtype == np.int32
    assert lengths.min() >= 1 and lengths.max() == 128
  means = {name: lengths.mean() for name, lengths in drawn.items()}
  assert 25 < means['lognormal'] < 35 and 18 < means['geometric'] < 26
  assert 30 < means['85% short'] < 38 and 60 < means['uniform'] < 69
  assert means['all equal'] == 128


def test_batches_must_hold_whole_prompts():
  with pytest.raises(ValueError, match='slots is 12'):
    rollouts.run(prompts=4, samples=8, slots=12)
