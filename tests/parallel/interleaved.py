"""A program for two processes of two devices: rows of a batch on a mesh that interleaves them."""

import argparse

import jax
import numpy as np
from jax.sharding import Mesh

from cartesian_moe_jax.data.loader import evaluation_batches
from cartesian_moe_jax.data.shares import shares_of_evaluation
from cartesian_moe_jax.parallel.axes import AXES
from cartesian_moe_jax.parallel.environments import Place
from cartesian_moe_jax.parallel.mesh import batch_sharding, batch_shares
from cartesian_moe_jax.parallel.processes import join, leave

ROWS, SEQ = 8, 4


class Numbers:
    """The tokens 0, 1, 2, ... as a packed split."""

    name, num_bytes = "numbers", ROWS * SEQ + 1

    def __len__(self):
        return self.num_bytes

    def read(self, start, stop):
        """Return the tokens of a range, cut at the end."""
        return np.arange(start, min(stop, len(self)), dtype=np.int32)


def main():
    """Place one batch as an evaluation does; say whether each device has the rows that are its."""
    parser = argparse.ArgumentParser()
    for name, kind in (("coordinator", str), ("processes", int), ("process", int)):
        parser.add_argument(f"--{name}", type=kind)
    told = parser.parse_args()
    join(Place(told.coordinator, told.processes, told.process), 60.0, stops_together=False)
    ordered = [jax.devices()[i] for i in (0, 2, 1, 3)]
    mesh = Mesh(np.reshape(ordered, (4, *[1] * (len(AXES) - 1))), AXES)
    shares = batch_shares(mesh)
    batches = [evaluation_batches(Numbers(), SEQ, ROWS, *share) for share in shares]
    rows, mask = next(shares_of_evaluation(batches))
    placed = jax.make_array_from_process_local_data(batch_sharding(mesh), rows)
    whole = np.arange(ROWS)[:, None] * SEQ + np.arange(SEQ + 1)
    right = all((shard.data == whole[shard.index]).all() for shard in placed.addressable_shards)
    everyone = jax.process_index(), shares, placed.shape, bool(right and mask.all())
    print(*everyone, sep=" | ")
    leave()


if __name__ == "__main__":
    main()
