"""A process whose devices hold several shares of the batch reads their rows, in order."""

import numpy as np
import pytest

from cartesian_moe_jax.data import Part, evaluation_batches, training_batches
from cartesian_moe_jax.data.shares import SharesOfBatches, shares_of_evaluation
from tests.packing import numbered_lines, pack_texts

SEQ, BATCH = 16, 8
SHARES, ROWS = [(1, 4), (2, 4)], [2, 3, 4, 5]
"""Shares of a batch of eight rows, and which rows they are."""


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    packed = pack_texts(tmp_path_factory.mktemp("shares"), {"a.txt": numbered_lines(500)})
    return packed.split("train")


@pytest.mark.parametrize("position", [0, 7])
def test_training_rows_are_those_of_the_global_batch(split, position):
    where = (Part("a", 1.0, split),), SEQ, BATCH, 1
    whole = training_batches(*where, 0, 1, position)
    ours = SharesOfBatches([training_batches(*where, *share, position) for share in SHARES])
    assert ours.epochs_per_batch == whole.epochs_per_batch
    for taken in range(3):
        assert ours.position == position + taken
        np.testing.assert_array_equal(next(ours), next(whole)[ROWS])
    ours.close()
    whole.close()


def test_evaluation_rows_are_those_of_the_global_batch(split):
    whole = list(evaluation_batches(split, SEQ, BATCH))
    ours = list(
        shares_of_evaluation([evaluation_batches(split, SEQ, BATCH, *share) for share in SHARES])
    )
    assert len(ours) == len(whole) > 2
    for mine, all_of_it in zip(ours, whole, strict=True):
        for array, expected in zip(mine, all_of_it, strict=True):
            np.testing.assert_array_equal(array, expected[ROWS])
