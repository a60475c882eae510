"""The activations of a feed-forward network, by name."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class Activation:
    """An elementwise function and whether it acts on a gate (GLU variants, arXiv:2002.05202)."""

    function: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]]
    gated: bool

    def hidden(
        self, gate: Float[Array, "*shape"] | None, up: Float[Array, "*shape"]
    ) -> Float[Array, "*shape"]:
        """The hidden values: function(gate) * up if gated (`gate` is given), else function(up)."""
        return self.function(up) if gate is None else self.function(gate) * up


# The Gaussian error linear unit itself, not its tanh approximation.
_exact_gelu = functools.partial(jax.nn.gelu, approximate=False)

ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {
        "swiglu": Activation(jax.nn.silu, gated=True),
        "geglu": Activation(_exact_gelu, gated=True),
        "reglu": Activation(jax.nn.relu, gated=True),
        "gelu": Activation(_exact_gelu, gated=False),
        "relu": Activation(jax.nn.relu, gated=False),
    }
)


def get_activation(name: str) -> Activation:
    """The activation called `name`. Raises ValueError if there is none."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation={name!r}: must be one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
