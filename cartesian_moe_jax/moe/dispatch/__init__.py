"""Exchanges: how tokens reach their experts and come back. Each has two verbs."""

from collections.abc import Mapping

from cartesian_moe_jax.moe.dispatch.exchange import Exchange
from cartesian_moe_jax.moe.dispatch.gather import GatherExchange
from cartesian_moe_jax.moe.dispatch.local import LocalExchange

EXCHANGES: Mapping[str, Exchange] = {"local": LocalExchange(), "gather": GatherExchange("expert")}
"""The exchanges that a layout may name."""

__all__ = ["EXCHANGES", "Exchange", "GatherExchange", "LocalExchange"]
