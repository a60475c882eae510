"""TensorBoard's event files: what is in them, and a run that goes on where they cannot be."""

import struct
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from cartesian_moe_jax.runs import tensorboard
from cartesian_moe_jax.runs.metrics_log import FileMetrics, read_metrics

LIMITED = """
import resource, sys
from pathlib import Path
from cartesian_moe_jax.runs.metrics_log import FileMetrics

resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
log = FileMetrics(Path(sys.argv[1]), 0)
for step in range(1, 201):
    log.write(step, {"loss": 1.0})
log.close()
"""


def events(folder):
    """What the only event file of a folder holds; its checksums must be right."""
    (file,) = folder.iterdir()
    content, found = file.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        head, body = content[:8], content[12 : 12 + length]
        sums = struct.unpack("<I", content[8:12]) + struct.unpack_from("<I", content, 12 + length)
        assert sums == (masked_crc32c(head), masked_crc32c(body))
        found.append(Event.FromString(body))
        content = content[16 + length :]
    return found


def test_every_number_is_a_point_of_its_curve_and_later_ones_of_before_are_dropped(tmp_path):
    log = FileMetrics(tmp_path, 7)
    log.write(8, {"loss": 0.5, "validation/text:a/loss": 2.0})
    first, start, points = events(tmp_path / "tensorboard")  # before it is closed
    log.close()
    assert first.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (8, SessionLog.START)
    assert points.step == 8
    assert {v.tag: v.simple_value for v in points.summary.value} == {
        "loss": 0.5,
        "validation/text_a/loss": 2.0,
    }


def test_a_disk_that_is_full_for_tensorboard_is_one_line_and_every_record_is_kept(tmp_path):
    program = [sys.executable, "-c", LIMITED, str(tmp_path)]
    root = Path(__file__).parents[2]
    done = subprocess.run(program, cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("warning: tensorboard/ gets no more numbers")
    assert line.endswith("File too large")
    records = list(read_metrics(tmp_path / "metrics.jsonl"))
    assert [record["step"] for record in records] == list(range(1, 201))


@pytest.mark.parametrize("method", ["add", "close"])
def test_the_first_failure_is_the_last_attempt(tmp_path, monkeypatch, capsys, method):
    calls = []

    def fail(self, *arguments):
        calls.append(arguments)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensorboard.EventFile, method, fail)
    log = FileMetrics(tmp_path, 0)
    for step in (1, 2, 3):
        log.write(step, {"loss": 1.0})
    log.close()
    assert len(calls) == 1
    assert capsys.readouterr().err.count("No space left on device") == 1
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_a_folder_that_cannot_be_made_is_a_warning_too(tmp_path, capsys):
    (tmp_path / "tensorboard").write_text("a file")
    log = FileMetrics(tmp_path, 0)
    log.write(1, {"loss": 1.0})
    log.close()
    assert "warning: tensorboard/" in capsys.readouterr().err
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1]
