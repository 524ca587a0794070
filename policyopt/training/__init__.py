"""What drives a method: credit, learner, checkpoints, metrics, curves.

A whole run is `policyopt.training.loop.train`, which scripts import from there.
"""

from policyopt.training.checkpoints import Checkpoints
from policyopt.training.credit import (
    Credit,
    assign_credit,
    init_credit,
    method_needs,
)
from policyopt.training.curves import plot
from policyopt.training.learner import Batching, Learner, make_learner
from policyopt.training.metrics import Writer
from policyopt.training.progress import Progress

__all__ = [
    'Batching', 'Checkpoints', 'Credit', 'Learner', 'Progress', 'Writer',
    'assign_credit', 'init_credit', 'make_learner', 'method_needs', 'plot',
]
