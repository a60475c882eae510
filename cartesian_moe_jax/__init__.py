"""CartesianMoE (arXiv 2410.16077) in JAX/Flax.

>>> import cartesian_moe_jax as cmoe
>>> lm = cmoe.load("runs/quickstart")
>>> lm.generate("def ", max_new_tokens=64, temperature=0.8, seed=0)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cartesian_moe_jax.api import (
        LAYOUTS,
        CartesianProductLayer,
        Config,
        LanguageModel,
        Layout,
        RouterContext,
        RoutingStats,
        SubLayerShape,
        TrainedModel,
        UserError,
        load,
        make_mesh,
        placed,
    )

__all__ = [
    "LAYOUTS",
    "CartesianProductLayer",
    "Config",
    "LanguageModel",
    "Layout",
    "RouterContext",
    "RoutingStats",
    "SubLayerShape",
    "TrainedModel",
    "UserError",
    "load",
    "make_mesh",
    "placed",
]


def __getattr__(name: str) -> Any:
    """Import the public face when it is used: processes that only read text start without jax."""
    if name in __all__:
        return getattr(importlib.import_module("cartesian_moe_jax.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
