"""Copies of tokens go to the devices of their experts in buckets of equal size."""

import dataclasses
from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.moe.dispatch.copies import (
    Copies,
    copies_by_device,
    cut_into_buckets,
    kept_pairs,
    only_here,
    read_labels,
    send,
    sum_of_copies,
)
from cartesian_moe_jax.moe.dispatch.exchange import bound
from cartesian_moe_jax.moe.dispatch.sort import LocalPlan, back_to_tokens, rows_by_expert
from cartesian_moe_jax.moe.routing import Routing


class CopiesPlan(NamedTuple):
    """How updates come back to the devices that sent their tokens."""

    here: LocalPlan
    copies: Copies
    dropped: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class AllToAllExchange:
    """Send each token once to every device that holds an expert of it, and sum what comes back.

    All buckets are as large as the largest may be: in training ``bucket_factor`` even shares,
    and pairs beyond it are dropped by priority, their weights given to the token's other experts;
    without a bound, as many as a device has tokens.
    """

    axis: str
    bucket_factor: float = 2.0

    def dispatch(
        self,
        x: Float[Array, "tokens d_model"],
        routing: Routing,
        num_experts: int,
        *,
        bounded: bool = False,
    ) -> tuple[Float[Array, "rows d_model"], Int[Array, "local_experts"], CopiesPlan]:
        """Return the rows that other devices, and this one, send to the experts here."""
        devices = jax.lax.axis_size(self.axis)
        here, factor = num_experts // devices, self.bucket_factor * bounded
        tokens, slots = routing.expert_ids.shape
        bucket = bound(tokens * min(slots, devices) / devices, tokens, factor)
        copies, sizes = copies_by_device(routing, devices, here)
        copies = cut_into_buckets(copies, sizes, bucket)
        has_row = copies.position < devices * bucket
        routing, not_sent = kept_pairs(routing, copies, has_row, num_experts)
        x, labels = map(self._swap, send(x, routing, copies, num_experts))
        routing = only_here(read_labels(labels, num_experts), self.axis, here)
        limit = bound(tokens * slots, routing.expert_ids.size, factor)
        rows, group_sizes, plan = rows_by_expert(x, routing, here, limit)
        return rows, group_sizes, CopiesPlan(plan, copies, not_sent + plan.dropped)

    def combine(
        self, rows: Float[Array, "rows d_model"], plan: CopiesPlan
    ) -> Float[Array, "tokens d_model"]:
        """Send one sum per copy back to where it came from."""
        return sum_of_copies(self._swap(back_to_tokens(rows, plan.here)), plan.copies)

    def _swap(self, buckets: Float[Array, "rows ..."]) -> Float[Array, "rows ..."]:
        return jax.lax.all_to_all(buckets, self.axis, split_axis=0, concat_axis=0, tiled=True)
