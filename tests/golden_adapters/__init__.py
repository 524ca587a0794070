"""Golden file -> how its cases are run through OUR functions.

One module per family; each lists its files in `ADAPTERS`.
"""

from tests.golden_adapters import (
    baselines,
    estimators,
    framework_losses,
    methods_hidden,
    methods_rewards,
    methods_signals,
    off_policy,
    preferences,
    rlax,
    surrogates,
    trl_losses,
)

_MODULES = (
    baselines,
    estimators,
    framework_losses,
    methods_hidden,
    methods_rewards,
    methods_signals,
    off_policy,
    preferences,
    rlax,
    surrogates,
    trl_losses)
ADAPTERS = {name: adapter for module in _MODULES
            for name, adapter in module.ADAPTERS.items()}
assert len(ADAPTERS) == sum(len(module.ADAPTERS) for module in _MODULES)
