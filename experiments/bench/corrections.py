"""Cases for rows that another policy sampled: weights, rejection, masks."""

from __future__ import annotations

from experiments.bench.advantages import EPS
from experiments.bench.cases import Case
from policyopt import ops
from policyopt.losses import soft_clips


def _weights(level, bound='truncate', threshold='2.0', **bounds):
  """Importance weights, with the diagnostics of them that both have."""
  def ours(drift, mask):
    kw = dict(level=level, bound=bound, count_eps=EPS, **bounds)
    weights = ops.importance_weights(drift, mask, **kw)
    return {
        'weights': weights,
        'mean': ops.masked_mean(weights, mask, count_eps=EPS),
        'ess': ops.effective_sample_size(
            weights, mask, count_eps=EPS, mean_eps=1e-8)}

  def peer(correction, drift, mask):
    weights, metrics = correction.compute_rollout_correction_weights(
        drift, mask, level, threshold)
    return {'weights': weights, 'mean': metrics['rollout_is_mean'],
            'ess': metrics['rollout_is_eff_sample_size']}

  return Case(f'weights {level} {bound}', ours,
              'compute_rollout_correction_weights', peer)


def _rejection(option, threshold, low=None, high=2.):
  """Kept tokens, with the share and the mean of what they are judged by."""
  level, statistic = option.rsplit('_', 1)

  def ours(drift, mask):
    kw = dict(statistic=statistic, level=level, count_eps=EPS)
    kept = ops.rejection_mask(
        drift, mask, low=low, high=high, inverse=True, **kw)
    value = ops.mismatch_statistic(drift, mask, **kw)
    return {'kept': kept,
            'share': ops.masked_mean(~kept, mask, count_eps=EPS),
            'mean': ops.masked_mean(value, mask, count_eps=EPS)}

  def peer(correction, drift, mask):
    kept, metrics = correction.compute_rollout_rejection_mask(
        drift, mask, option, threshold)
    return {'kept': kept, 'mean': metrics[f'rollout_rs_{option}_mean'],
            'share': metrics['rollout_rs_masked_fraction']}

  return Case(f'rejection {option}', ours, 'compute_rollout_rejection_mask',
              peer)


def _metrics(old, log_probs, mask):
  reported = ops.off_policy_metrics(
      old, log_probs, mask, empty_rows='count', count_eps=EPS)
  return {'k1': reported['k1'], 'k3': reported['k3'],
          'gap': reported['log_perplexity_gap'], 'all': reported}


def _metrics_peer(correction, old, log_probs, mask):
  reported = correction.compute_offpolicy_metrics(old, log_probs, mask)
  return {'k1': reported['kl'], 'k3': reported['k3_kl'],
          'gap': reported['log_ppl_diff']}


def _sequence_mask(row_advantages, old, sampled, mask):
  drift = ops.log_ratio(old, sampled, mask, limit=None)
  return {'kept': ops.off_policy_sequence_mask(
      row_advantages[:, :1], drift, mask, 1e-4)}


def _sequence_mask_peer(grpo, row_advantages, old, sampled, mask):
  return {'kept': grpo.GRPOTrainer.get_off_policy_mask(
      row_advantages[:, :1], old, sampled, mask, 1e-4)}


def _gamma_weights(row_advantages, drift, mask):
  # The same for every token of a row, and each row has a first one.
  log_weight = ops.sequence_log_weight(
      drift, mask, token_limit=20., limit=soft_clips.VESPO_LIMIT)
  return {'phi': ops.gamma_weight(
      log_weight[:, :1], row_advantages[:, :1], (2., 3.), (3., 2.))}


CASES = (
    _weights('token', cap=2.),
    _weights('token', 'mask', '0.99_1.01', floor=.99, cap=1.01),
    _weights('sequence', cap=2.),
    Case('weights normalised', lambda weights, mask: {
        'weights': ops.normalize_weights(weights, mask)}),
    _rejection('token_k1', '0.99_1.01', low=.99, high=1.01),
    _rejection('token_k2', '0.0001', high=1e-4),
    # Few are near the bound, where k3 in float32 is rounding.
    _rejection('token_k3', '0.001', high=1e-3),
    _rejection('seq_sum_k1', '0.5_2.0', low=.5, high=2.),
    _rejection('seq_mean_k2', '0.00005', high=5e-5),
    _rejection('seq_max_k2', '0.0008', high=8e-4),
    Case('off_policy_metrics', _metrics, 'compute_offpolicy_metrics',
         _metrics_peer),
    Case('off_policy_sequence_mask', _sequence_mask,
         'TRL get_off_policy_mask', _sequence_mask_peer),
    Case('vespo weights', _gamma_weights, 'TRL get_gamma_weights',
         lambda grpo, row_advantages, drift, mask: {
             'phi': grpo.GRPOTrainer.get_gamma_weights(
                 row_advantages[:, :1], drift, mask, None)}),
    Case('second_moment_mask', lambda drift, mask: {
        'kept': ops.second_moment_mask(drift, mask, 5e-5)}),
)
