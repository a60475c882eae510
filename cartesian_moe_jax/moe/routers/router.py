"""The contract of a router."""

import abc
from typing import ClassVar

from flax import nnx
from jaxtyping import Array, Float

from cartesian_moe_jax.moe.routing import RouterContext, Routing, Scores
from cartesian_moe_jax.moe.shape import SubLayerShape


class Router(nnx.Module):
    """Scores every expert for every token, then chooses each token's experts."""

    learned: ClassVar[bool]
    """Whether training moves it: losses on a router that is not learned do nothing."""
    reads_table: ClassVar[bool]
    """Whether it reads a table by token id: its own, or the one in its context."""

    @abc.abstractmethod
    def __init__(self, shape: SubLayerShape, *, rngs: nnx.Rngs): ...

    @staticmethod
    @abc.abstractmethod
    def slots(shape: SubLayerShape) -> int:
        """Return the most experts that one token may use."""

    @abc.abstractmethod
    def scores(self, x: Float[Array, "tokens d_model"], context: RouterContext) -> Scores:
        """Score in the global view: all devices' tokens."""

    @abc.abstractmethod
    def choose(self, scores: Scores) -> Routing:
        """Choose token by token: each device calls it on its own tokens."""
