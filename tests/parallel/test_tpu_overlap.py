"""On TPU the shared expert is computed while tokens travel, as the compiled program says."""

import pytest

from tests.tpu import needs_libtpu, run_with_libtpu


@pytest.mark.long
@needs_libtpu
def test_the_shared_expert_is_computed_while_rows_travel():
    exchanges = run_with_libtpu("tests.parallel.tpu_overlap")
    # Two sub-layers; there and back, rows and labels, forward and backward.
    assert len(exchanges) >= 8
    overlapped = [purpose for purpose, operations in exchanges if operations]
    assert len(overlapped) >= 4, exchanges
