"""What drives a method: checkpoints, metrics, progress, curves."""

from policyopt.training.checkpoints import Checkpoints
from policyopt.training.curves import plot
from policyopt.training.metrics import Writer
from policyopt.training.progress import Progress

__all__ = ['Checkpoints', 'Progress', 'Writer', 'plot']
