"""Routers: each scores tokens in the global view and chooses experts token by token."""

from collections.abc import Mapping

from cartesian_moe_jax.errors import lookup
from cartesian_moe_jax.moe.routers.hash import Hash
from cartesian_moe_jax.moe.routers.router import Router
from cartesian_moe_jax.moe.routers.softmax_top_k import SoftmaxTopK
from cartesian_moe_jax.moe.routers.top_p import TopP

ROUTERS: Mapping[str, type[Router]] = {"softmax_top_k": SoftmaxTopK, "top_p": TopP, "hash": Hash}
"""The routers that ``config.model.moe.router`` names."""


def router_named(name: str) -> type[Router]:
    """Return the class of the router called ``name``; raises UserError if there is none."""
    return lookup(ROUTERS, name, "config.model.moe.router")


__all__ = ["ROUTERS", "Hash", "Router", "SoftmaxTopK", "TopP", "router_named"]
