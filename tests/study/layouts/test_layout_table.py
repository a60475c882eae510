"""The table as a user reads it."""

import pytest

from cartesian_moe_jax.study.layouts.collectives import Collective
from cartesian_moe_jax.study.layouts.picture import draw_comparison
from cartesian_moe_jax.study.layouts.roofline import Times
from cartesian_moe_jax.study.layouts.row import Row, row_of
from cartesian_moe_jax.study.layouts.table import (
    collectives_table,
    comparison,
    mesh_text,
    number,
    verdict,
)

SENT = Collective("all-gather", ("expert",), 12, 3e9, 1e9, near_share=0.5)


def row(name, seconds, total, **fields):
    """A row with a program on a chip of 100 GB."""
    return Row(
        name,
        exchange="gather",
        mesh={"data": 4, "fsdp": 1, "expert": 8},
        parameter_bytes=10**9,
        optimizer_bytes=2 * 10**9,
        temporary_bytes=total - 3 * 10**9,
        total_bytes=total,
        memory_bytes=100 * 10**9,
        flops=5e12,
        memory_traffic_bytes=1e10,
        collectives=[SENT],
        exchange_bytes=3e9,
        least_exchange_bytes=2e9,
        times=Times(seconds, seconds / 2, 0.0, 0.0),
        compile_seconds=1.5,
        **fields,
    )


ROWS = [
    row("slow", 0.2, 50 * 10**9),
    row("too_big", 0.1, 127 * 10**9),
    Row("broken", mesh={"data": 2}, reason="it is not supported"),
    row("fast", 0.15, 60 * 10**9),
]


def lines(rows=ROWS):
    return comparison(rows).splitlines()


def test_best_first_then_what_does_not_fit_then_what_has_no_program():
    firsts = [line.split()[0] for line in lines() if line]
    assert firsts == ["layout", "fast", "slow", "too_big", "no", "broken"]
    assert lines()[-1].endswith("it is not supported")


def test_cells_have_the_numbers_in_the_unit_of_the_header():
    header, fast, _, too_big = lines()[:4]
    assert header.split("  ")[0] == "layout"
    for name in ("params GB", "of GB", "TFLOP", "sent GB", "far GB", "step ms", "exch/least"):
        assert name in header
    assert " ".join(fast.split()) == (
        "fast gather data 4, expert 8 1.00 2.00 57.0 60.0 100 fits 5.00 4.00 1.00 150 compute "
        "1.50x 1.50"
    )
    assert "100 lacks 27.0" in too_big
    assert len({len(header), len(fast)}) == 1, "columns are aligned"
    assert len(header) <= 160


def test_columns_of_which_nothing_is_known_are_left_out():
    assert "measured" not in lines()[0]
    assert "measured ms" in lines([row("a", 0.1, 10**10, step_seconds=0.3)])[0]


def test_what_was_measured_decides_before_what_was_estimated():
    rows = [row("a", 0.1, 10**10, step_seconds=0.3), row("b", 0.2, 10**10, step_seconds=0.25)]
    assert [line.split()[0] for line in lines(rows)] == ["layout", "b", "a"]


def test_collectives_are_listed_by_kind_and_axes():
    header, first = collectives_table([ROWS[0]]).splitlines()
    assert " ".join(header.split()) == "layout collective over count near GB far GB near links"
    assert " ".join(first.split()) == "slow data 4, expert 8 all-gather expert 12 3.00 1.00 50%"


def test_the_verdict_is_the_flags_of_the_best_that_fits():
    assert verdict(ROWS) == (
        "best that fits: --config.parallel.layout=fast --config.parallel.data=4 "
        "--config.parallel.expert=8 --config.parallel.exchange=gather"
    )
    assert verdict([ROWS[1]]) == "none fits: too_big lacks least, 27.0 GB"
    assert verdict([ROWS[2]]) == "none compiles"


def test_rows_survive_json():
    for one in ROWS:
        assert row_of(one.record()) == one


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0.00"),
        (0.00123, "0.00123"),
        (1.234, "1.23"),
        (99.96, "100"),
        (12.3, "12.3"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_a_mesh_names_the_axes_that_have_devices():
    assert mesh_text({"data": 1, "expert": 8}) == "expert 8"
    assert mesh_text({"data": 1}) == "1 device"


def test_the_picture_names_its_rows_and_is_always_the_same():
    picture = draw_comparison("a title", ROWS)
    assert picture == draw_comparison("a title", ROWS)
    assert picture.startswith(b"<?xml") and len(picture) > 5_000
    assert len(draw_comparison("a title", ROWS[:1])) < len(picture)
