"""Copies of tokens go to the devices of their experts, as many as there are: accelerators."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.moe.dispatch.copies import (
    Copies,
    copies_by_device,
    only_here,
    read_labels,
    send,
    sum_of_copies,
)
from cartesian_moe_jax.moe.dispatch.exchange import bound
from cartesian_moe_jax.moe.dispatch.sort import SortPlan, back_to_tokens, rows_by_expert
from cartesian_moe_jax.moe.dispatch.survivors import (
    Survivors,
    all_survive,
    fitting,
    survivors_of,
)
from cartesian_moe_jax.moe.dispatch.swap import Chunks, ragged_swap
from cartesian_moe_jax.moe.routing import Routing


class RaggedPlan(NamedTuple):
    """How updates come back to the devices that sent their tokens."""

    here: SortPlan
    copies: Copies
    chunks: Chunks
    survivors: Survivors

    @property
    def dropped(self) -> Int[Array, ""]:
        """Pairs of this device's tokens that no expert computes."""
        return self.survivors.dropped


@dataclasses.dataclass(frozen=True)
class RaggedExchange:
    """As all_to_all, but no bucket is padded: only what is sent travels.

    In training a device takes ``bucket_factor`` even shares of copies, and computes so many pairs.
    If more copies want to come, every device may send the same share of its own, those of highest
    priority; of the pairs that came, those of highest priority are computed. The weights of what is
    dropped are given to the token's other experts.
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
        limit = bound(tokens * slots, most * slots, factor)
        may_drop = most < devices * tokens or limit < most * slots
        copies, sizes = copies_by_device(routing, devices, here)
        chunks = Chunks.of(jax.lax.all_gather(sizes, self.axis), most)
        sent = send(x, routing, copies, num_experts, with_priority=may_drop)
        x, labels = (ragged_swap(rows, chunks, most, self.axis) for rows in sent)
        received = only_here(read_labels(labels, num_experts, slots), self.axis, here)
        received = fitting(received, here, limit)
        survivors = all_survive()
        if may_drop:
            told = (received.expert_ids < here).astype(jnp.float32)
            is_computed = self._sum_of_returned(told, copies, chunks) > 0
            survivors = survivors_of(routing, is_computed, num_experts)
        rows, group_sizes, plan = rows_by_expert(x, received, here, limit)
        return rows, group_sizes, RaggedPlan(plan, copies, chunks, survivors)

    def combine(
        self, rows: Float[Array, "rows d_model"], plan: RaggedPlan
    ) -> Float[Array, "tokens d_model"]:
        """Send one sum per copy back to where it came from."""
        partial = back_to_tokens(rows, plan.here)
        update = self._sum_of_returned(partial, plan.copies, plan.chunks)
        return plan.survivors.rescaled(update)

    def _sum_of_returned(
        self, rows: Float[Array, "rows any"], copies: Copies, chunks: Chunks
    ) -> Float[Array, "tokens any"]:
        sent = copies.order.shape[0]
        return sum_of_copies(ragged_swap(rows, chunks.returning(), sent, self.axis), copies)
