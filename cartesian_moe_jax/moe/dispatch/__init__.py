"""Exchanges: how tokens reach their experts and come back. Each has two verbs."""

from collections.abc import Callable, Mapping

from cartesian_moe_jax.errors import UserError, lookup
from cartesian_moe_jax.moe.dispatch.all_to_all import AllToAllExchange
from cartesian_moe_jax.moe.dispatch.exchange import Exchange
from cartesian_moe_jax.moe.dispatch.gather import GatherExchange
from cartesian_moe_jax.moe.dispatch.local import LocalExchange
from cartesian_moe_jax.moe.dispatch.ragged import RaggedExchange
from cartesian_moe_jax.parallel.axes import EXPERT
from cartesian_moe_jax.parallel.layouts import Layout

EXCHANGES: Mapping[str, Callable[[Layout], Exchange]] = {
    "local": lambda layout: LocalExchange(),
    "gather": lambda layout: GatherExchange(EXPERT, layout.bucket_factor),
    "all_to_all": lambda layout: AllToAllExchange(EXPERT, layout.bucket_factor),
    "ragged": lambda layout: RaggedExchange(EXPERT, layout.bucket_factor),
}
"""The exchanges that a layout may name."""


def exchange_of(layout: Layout) -> Exchange:
    """Return the exchange of a layout; raises UserError if the layout does not split its experts.

    ``local`` goes with any layout: experts that are split are gathered where they are used.
    """
    exchange = lookup(EXCHANGES, layout.exchange, "config.parallel.exchange")(layout)
    if exchange.axis and layout.splits("experts") != (exchange.axis,):
        raise UserError(
            f"config.parallel.exchange={layout.exchange!r} is not allowed: the layout must split "
            f"experts over the mesh axis {exchange.axis!r}, or the exchange be local"
        )
    return exchange


__all__ = ["EXCHANGES", "Exchange", "exchange_of"]
