"""Copies of tokens go to the devices of their experts in buckets of equal size."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.moe.dispatch.copies import (
    Copies,
    copies_by_device,
    cut_into_buckets,
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
from cartesian_moe_jax.moe.routing import Routing


class CopiesPlan(NamedTuple):
    """How updates come back to the devices that sent their tokens."""

    here: SortPlan
    copies: Copies
    survivors: Survivors

    @property
    def dropped(self) -> Int[Array, ""]:
        """Pairs of this device's tokens that no expert computes."""
        return self.survivors.dropped


@dataclasses.dataclass(frozen=True)
class AllToAllExchange:
    """Send each token once to every device that holds an expert of it, and sum what comes back.

    All buckets are as large as the largest may be: in training ``bucket_factor`` even shares, and
    so many pairs are computed on a device. Those beyond, of least priority, are dropped, their
    weights given to the token's other experts. Without a bound, a bucket holds all of a device's
    tokens.
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
        most = devices * bucket * slots
        limit = bound(tokens * slots, most, factor)
        may_drop = bucket < tokens or limit < most
        copies, sizes = copies_by_device(routing, devices, here)
        copies = cut_into_buckets(copies, sizes, bucket)
        sent = send(x, routing, copies, num_experts, with_priority=may_drop)
        x, labels = map(self._swap, sent)
        received = only_here(read_labels(labels, num_experts, slots), self.axis, here)
        received = fitting(received, here, limit)
        survivors = all_survive()
        if may_drop:
            told = self._swap((received.expert_ids < here).astype(jnp.float32))
            survivors = survivors_of(routing, sum_of_copies(told, copies) > 0, num_experts)
        rows, group_sizes, plan = rows_by_expert(x, received, here, limit)
        return rows, group_sizes, CopiesPlan(plan, copies, survivors)

    def combine(
        self, rows: Float[Array, "rows d_model"], plan: CopiesPlan
    ) -> Float[Array, "tokens d_model"]:
        """Send one sum per copy back to where it came from."""
        update = sum_of_copies(self._swap(back_to_tokens(rows, plan.here)), plan.copies)
        return plan.survivors.rescaled(update)

    def _swap(self, buckets: Float[Array, "rows ..."]) -> Float[Array, "rows ..."]:
        return jax.lax.all_to_all(buckets, self.axis, split_axis=0, concat_axis=0, tiled=True)
