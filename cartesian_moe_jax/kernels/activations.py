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

    def keep_and_activate(self, *pre: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"], ...]:
        """What enters, (gate, up) or (up,), and after it the hidden values."""
        return (*pre, self._hidden(*pre))

    def recompute_and_pull(
        self, d_hidden: Float[Array, "*shape"], *pre: Float[Array, "*shape"]
    ) -> tuple[Float[Array, "*shape"], ...]:
        """The hidden values again, and after them the gradients of (gate, up) or (up,)."""
        hidden, pull = jax.vjp(self._hidden, *pre)
        return (hidden, *pull(d_hidden))

    def _hidden(self, *pre: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return self.hidden(pre[0] if self.gated else None, pre[-1])


exact_gelu = functools.partial(jax.nn.gelu, approximate=False)
"""The Gaussian error linear unit itself, not its tanh approximation."""

ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {
        "swiglu": Activation(jax.nn.silu, gated=True),
        "geglu": Activation(exact_gelu, gated=True),
        "reglu": Activation(jax.nn.relu, gated=True),
        "gelu": Activation(exact_gelu, gated=False),
        "relu": Activation(jax.nn.relu, gated=False),
    }
)


def get_activation(name: str) -> Activation:
    """The activation called `name`. Raises ValueError if there is none."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation={name!r}: must be one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
