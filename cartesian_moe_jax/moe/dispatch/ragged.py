"""Copies of tokens go to the devices of their experts, as many as there are: accelerators."""

import dataclasses
from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.moe.dispatch.copies import (
    Copies,
    copies_by_device,
    kept_pairs,
    only_here,
    read_labels,
    send,
    sum_of_copies,
)
from cartesian_moe_jax.moe.dispatch.exchange import bound
from cartesian_moe_jax.moe.dispatch.sort import LocalPlan, back_to_tokens, rows_by_expert
from cartesian_moe_jax.moe.dispatch.swap import Chunks, ragged_swap
from cartesian_moe_jax.moe.routing import Routing


class RaggedPlan(NamedTuple):
    """How updates come back to the devices that sent their tokens."""

    here: LocalPlan
    copies: Copies
    chunks: Chunks
    dropped: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class RaggedExchange:
    """As all_to_all, but no bucket is padded: only what is sent travels.

    In training a device takes ``bucket_factor`` even shares of rows; what is beyond, from the
    last devices that send to it, is dropped.
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
    ) -> tuple[Float[Array, "rows d_model"], Int[Array, "local_experts"], RaggedPlan]:
        """Return the rows that other devices, and this one, send to the experts here."""
        devices = jax.lax.axis_size(self.axis)
        here, factor = num_experts // devices, self.bucket_factor * bounded
        tokens, slots = routing.expert_ids.shape
        most = bound(tokens * min(slots, devices), devices * tokens, factor)
        copies, sizes = copies_by_device(routing, devices, here)
        chunks = Chunks.of(jax.lax.all_gather(sizes, self.axis), most)
        has_row = chunks.travels(copies.position, jax.lax.axis_index(self.axis))
        routing, not_sent = kept_pairs(routing, copies, has_row, num_experts)
        sent = send(x, routing, copies, num_experts)
        x, labels = (ragged_swap(rows, chunks, most, self.axis) for rows in sent)
        routing = only_here(read_labels(labels, num_experts), self.axis, here)
        limit = bound(tokens * slots, routing.expert_ids.size, factor)
        rows, group_sizes, plan = rows_by_expert(x, routing, here, limit)
        return rows, group_sizes, RaggedPlan(plan, copies, chunks, not_sent + plan.dropped)

    def combine(
        self, rows: Float[Array, "rows d_model"], plan: RaggedPlan
    ) -> Float[Array, "tokens d_model"]:
        """Send one sum per copy back to where it came from."""
        partial = back_to_tokens(rows, plan.here)
        sent = plan.copies.order.shape[0]
        returned = ragged_swap(partial, plan.chunks.returning(), sent, self.axis)
        return sum_of_copies(returned, plan.copies)
