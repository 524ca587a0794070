"""One file per published method; a recipe's keywords are its hyper-parameters.

Folders are named after the part that their methods change. `in_framework` makes
GRPO, RLOO and PPO as other frameworks have them by default.
"""

from policyopt.methods.advantages import *  # noqa: F403
from policyopt.methods.base import *  # noqa: F403
from policyopt.methods.frameworks import (
    Dialect,
    algorithms,
    dialect,
    frameworks,
    in_framework,
)
from policyopt.methods.lookup import (
    build,
    folder,
    from_config,
    names,
    recipe,
)
from policyopt.methods.preferences import *  # noqa: F403
from policyopt.methods.surrogates import *  # noqa: F403

__all__ = [  # noqa: PLE0604
    'Dialect',
    'algorithms',
    'build',
    'dialect',
    'folder',
    'frameworks',
    'from_config',
    'in_framework',
    'names',
    'recipe',
    *names(),
]
