"""The axes of a device mesh."""

from jax.sharding import PartitionSpec

EXPERT, TENSOR = "expert", "tensor"
BATCH_AXES = ("data", "fsdp", EXPERT)
"""The batch is split over all of these, in every layout."""

AXES = (*BATCH_AXES, TENSOR)
"""From the slowest links to the fastest. Along ``tensor`` devices share their tokens."""

BATCH = PartitionSpec(BATCH_AXES)
