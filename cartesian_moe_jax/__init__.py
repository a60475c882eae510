"""CartesianMoE (arXiv 2410.16077) in JAX/Flax.

>>> import cartesian_moe_jax as cmoe
>>> lm = cmoe.load("runs/quickstart")
>>> lm.generate("def ", max_new_tokens=64, temperature=0.8, seed=0)
"""

from cartesian_moe_jax.api import (
    CartesianProductLayer,
    Config,
    LanguageModel,
    RoutingStats,
    SubLayerShape,
    TrainedModel,
    UserError,
    load,
)

__all__ = [
    "CartesianProductLayer",
    "Config",
    "LanguageModel",
    "RoutingStats",
    "SubLayerShape",
    "TrainedModel",
    "UserError",
    "load",
]
