"""metrics.jsonl: appended, cut back to the checkpoint on resuming, readable after a crash."""

import json

import pytest

from cartesian_moe_jax.runs.metrics_log import FileMetrics, read_metrics


def write(folder, position, steps, loss=1.0):
    log = FileMetrics(folder, position)
    for step in steps:
        log.write(step, {"loss": loss * step})
    log.close()


def steps(folder):
    return [record["step"] for record in read_metrics(folder / "metrics.jsonl")]


def test_records_are_lines_of_json(tmp_path):
    write(tmp_path, 0, [1, 2], loss=0.5)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": 1.0},
    ]


def test_each_record_is_on_disk_at_once(tmp_path):
    log = FileMetrics(tmp_path, 0)
    log.write(1, {"loss": 1.0})
    assert steps(tmp_path) == [1]
    log.close()


def test_numbers_that_are_not_finite_are_null(tmp_path, caplog):
    log = FileMetrics(tmp_path, 0)
    log.write(1, {"loss": float("nan"), "perplexity": float("inf"), "mfu": 0.5})
    log.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert line == '{"step": 1, "loss": null, "perplexity": null, "mfu": 0.5}'
    assert not caplog.records


def test_tensorboard_gets_the_same_numbers(tmp_path):
    write(tmp_path, 0, [1], loss=0.5)
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"loss" in events.read_bytes()


def test_resuming_drops_what_came_after_the_checkpoint(tmp_path):
    write(tmp_path, 0, [1, 2, 3, 4, 5])
    write(tmp_path, 3, [4], loss=2.0)
    records = list(read_metrics(tmp_path / "metrics.jsonl"))
    assert [(r["step"], r["loss"]) for r in records] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 8.0)]


def test_starting_anew_drops_everything(tmp_path):
    write(tmp_path, 0, [1, 2, 3])
    write(tmp_path, 0, [1])
    assert steps(tmp_path) == [1]


@pytest.mark.parametrize("cut", ["{", '{"step": 3, "lo', '{"step": 3, "loss": 1.0', '{"step"\x00'])
def test_a_last_line_cut_short_is_left_out_and_removed_on_resuming(tmp_path, cut):
    write(tmp_path, 0, [1, 2])
    file = tmp_path / "metrics.jsonl"
    with file.open("a") as stream:
        stream.write(cut)
    assert steps(tmp_path) == [1, 2]
    write(tmp_path, 2, [3])
    assert steps(tmp_path) == [1, 2, 3]
    assert file.read_text().count("\n") == 3


@pytest.mark.parametrize(
    "broken", ['{"step": 3, "lo', "", "\x00\x00", "17", '{"loss": 1.0}', "\xff"]
)
def test_a_broken_line_in_the_middle_costs_no_other(tmp_path, broken):
    write(tmp_path, 0, [1, 2, 3, 4])
    file = tmp_path / "metrics.jsonl"
    lines = file.read_text().splitlines()
    lines[2] = broken
    file.write_bytes("".join(f"{line}\n" for line in lines).encode("latin-1"))
    assert steps(tmp_path) == [1, 2, 4]
    write(tmp_path, 4, [5])
    assert steps(tmp_path) == [1, 2, 4, 5]


def test_a_missing_file_has_no_records(tmp_path):
    assert steps(tmp_path) == []
