"""One file per published method; a recipe's keywords are its hyper-parameters.

Folders are named after the part that their methods change.
"""

from policyopt.methods.advantages import *  # noqa: F403
from policyopt.methods.base import *  # noqa: F403
from policyopt.methods.lookup import build, folder, names, recipe
from policyopt.methods.preferences import *  # noqa: F403
from policyopt.methods.surrogates import *  # noqa: F403

__all__ = ['build', 'folder', 'names', 'recipe', *names()]  # noqa: PLE0604
