"""Metrics in an object store: parts written whole, cut back on resuming, read in either form."""

import json

import pytest

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.paths import as_path
from cartesian_moe_jax.runs import metrics_parts
from cartesian_moe_jax.runs.metrics_log import FileMetrics, open_metrics, run_metrics
from cartesian_moe_jax.runs.metrics_parts import PartMetrics

pytest_plugins = ["tests.stand_in_store"]

RUN = "gs://bucket/runs/one"


class Clock:
    """Seconds that pass when they are told to."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def run(object_store):
    return as_path(RUN)


@pytest.fixture(autouse=True)
def three_records_make_a_part(monkeypatch):
    monkeypatch.setattr(metrics_parts, "PART_RECORDS", 3)


def write(folder, position, steps, loss=1.0):
    log = open_metrics(folder, position)
    for step in steps:
        log.write(step, {"loss": loss * step})
    log.close()


def steps(folder):
    return [record["step"] for record in run_metrics(folder)]


def parts(store):
    """The steps in each part."""
    found = {n: c for n, c in store.objects().items() if n.startswith("bucket/runs/one/metrics/")}
    lines = {name.rpartition("/")[2]: content.splitlines() for name, content in found.items()}
    return {name: [json.loads(line)["step"] for line in own] for name, own in lines.items()}


def boards(store):
    return {n: c for n, c in store.objects().items() if "/tensorboard/events.out.tfevents." in n}


def test_the_form_is_chosen_by_where_the_run_lies(run, tmp_path):
    assert isinstance(open_metrics(run, 0), PartMetrics)
    assert isinstance(open_metrics(tmp_path, 0), FileMetrics)


def test_parts_are_named_for_their_first_steps(run, object_store):
    write(run, 0, [1, 5, 10, 15, 1000000])
    assert parts(object_store) == {
        "000000000001.jsonl": [1, 5, 10],
        "000000000015.jsonl": [15, 1000000],
    }
    assert [(r["step"], r["loss"]) for r in run_metrics(run)][-1] == (1000000, 1000000.0)
    assert object_store.renamed == []


def test_records_of_one_step_stay_in_one_part_and_in_order(run, object_store):
    log = PartMetrics(run, 0)
    for step, name in [(1, "loss"), (2, "loss"), (3, "loss"), (3, "validation"), (4, "loss")]:
        log.write(step, {name: 1.0})
    log.close()
    assert list(parts(object_store).values()) == [[1, 2, 3, 3], [4]]
    assert [next(iter(r.keys() - {"step"})) for r in run_metrics(run)][2:4] == [
        "loss",
        "validation",
    ]


def test_a_crash_loses_what_came_after_the_last_flush_and_no_more(run):
    clock = Clock()
    log = PartMetrics(run, 0, clock)
    log.write(1, {"loss": 1.0})
    assert steps(run) == [1], "the first record shows at once that records can be written"
    clock.now = metrics_parts.FLUSH_SECONDS - 1
    log.write(2, {"loss": 1.0})
    assert steps(run) == [1]
    clock.now += 1
    log.write(3, {"loss": 1.0})
    assert steps(run) == [1, 2, 3]
    log.write(4, {"loss": 1.0})  # begins a part
    log.write(5, {"loss": 1.0})
    assert steps(run) == [1, 2, 3]
    log.flush()
    assert steps(run) == [1, 2, 3, 4, 5]
    # Nothing is closed: that was the crash.
    write(run, 5, [6])
    assert steps(run) == [1, 2, 3, 4, 5, 6]


def test_a_full_part_is_complete_before_the_next_begins(run, object_store):
    clock = Clock()
    log = PartMetrics(run, 0, clock)
    for step in range(1, 9):
        log.write(step, {"loss": 1.0})
    assert list(parts(object_store).values()) == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    "position, kept",
    [
        (0, {}),
        (2, {"000000000001.jsonl": [1, 2]}),
        (3, {"000000000001.jsonl": [1, 2, 3]}),
        (4, {"000000000001.jsonl": [1, 2, 3], "000000000004.jsonl": [4]}),
        (8, {"000000000001.jsonl": [1, 2, 3], "000000000004.jsonl": [4, 5, 6]}),
    ],
)
def test_resuming_drops_what_came_after_the_checkpoint(run, object_store, position, kept):
    write(run, 0, [1, 2, 3, 4, 5, 6, 11, 12])
    write(run, position, [13], loss=2.0)
    assert parts(object_store) == {**kept, "000000000013.jsonl": [13]}
    assert run_metrics(run)[-1] == {"step": 13, "loss": 26.0}


def test_parts_that_end_before_the_checkpoint_are_not_written_again(run, object_store):
    write(run, 0, [1, 2, 3, 4, 5, 6])
    object_store.written.clear()
    write(run, 6, [])
    assert object_store.written == []


def test_other_objects_below_metrics_are_neither_read_nor_removed(run, object_store):
    object_store.put("bucket/runs/one/metrics/notes.jsonl", b"mine")
    write(run, 0, [1])
    assert steps(run) == [1]
    assert object_store.objects()["bucket/runs/one/metrics/notes.jsonl"] == b"mine"


def test_a_run_copied_to_a_disk_is_read_and_continued_there(run, object_store, tmp_path):
    write(run, 0, [1, 2, 3, 4, 5])
    for name, content in object_store.objects().items():
        file = tmp_path / name.removeprefix("bucket/runs/one/")
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
    assert steps(tmp_path) == [1, 2, 3, 4, 5]
    write(tmp_path, 4, [5, 6])
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_a_run_copied_from_a_disk_is_read_and_continued_in_the_store(run, object_store, tmp_path):
    write(tmp_path, 0, [1, 2, 3])
    object_store.put("bucket/runs/one/metrics.jsonl", (tmp_path / "metrics.jsonl").read_bytes())
    write(run, 2, [3, 4])
    assert steps(run) == [1, 2, 3, 4]


def test_tensorboard_gets_one_file_per_part_with_the_same_numbers(run, object_store):
    write(run, 0, [1, 2, 3, 4])
    files = boards(object_store)
    assert len(files) == 2
    assert all(content.count(b"loss") for content in files.values())
    assert [name.rpartition(".")[2] for name in sorted(files)] == ["000000000001", "000000000004"]


def test_tensorboard_is_copied_at_each_flush_and_its_local_folder_removed(
    run, object_store, tmp_path, monkeypatch
):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    log = PartMetrics(run, 0, Clock())
    log.write(1, {"loss": 1.0})
    (name,) = boards(object_store)
    log.write(2, {"loss": 1.0})
    assert list((tmp_path / "temporary").iterdir())
    log.close()
    assert list(boards(object_store)) == [name]
    assert boards(object_store)[name].count(b"loss") == 2
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_store_out_of_reach_is_one_line_and_nothing_is_lost_by_it(run, object_store):
    log = PartMetrics(run, 0, Clock())
    log.write(1, {"loss": 1.0})
    log.write(2, {"loss": 1.0})
    object_store.failure = ConnectionError("Cannot connect\nto host")
    with pytest.raises(UserError, match=r"^gs://bucket/runs/one/metrics/0+1.jsonl cannot be .*$"):
        log.flush()
    object_store.failure = None
    log.close()
    assert steps(run) == [1, 2]


def test_a_run_that_is_not_there_has_no_records(run, tmp_path):
    assert run_metrics(run) == run_metrics(tmp_path) == []
