"""Our layers beside PyTorch's in the GPU benchmark, with a stand-in for PyTorch's process."""

import stat
import sys

import pytest

from benchmarks.gpu import pytorch
from benchmarks.gpu.context import Context
from benchmarks.gpu.record import Record
from benchmarks.gpu.sizes import REHEARSAL
from benchmarks.timing import Case

WORKER = """#!{python}
import json, sys
assert sys.argv[1:] == ["-m", "benchmarks.pytorch.worker", "cpu", "float32"]
print(json.dumps({{"torch": "0", "threads": 2, "device": "none"}}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    reply = {{"seconds": 0.5}}
    if "compute" in request or request.get("make", dict()).get("experts") == "eager":
        reply = {{"error": "none here"}}
    elif "make" in request:
        reply = {{"number": 3, "temporary_bytes": 40}}
    print(json.dumps(reply), flush=True)
"""


@pytest.fixture
def context(tmp_path):
    return Context(REHEARSAL, Record(tmp_path / "part.json"), tmp_path, sys.executable)


@pytest.fixture
def python(tmp_path):
    """A Python that answers as one that has PyTorch."""
    program = tmp_path / "python"
    program.write_text(WORKER.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


def test_pytorch_beside_ours(context, python, monkeypatch):
    monkeypatch.setattr(pytorch, "FORMS", {"mixtral": ("eager", "grouped_mm")})
    pytorch.run(context._replace(python=python))
    ours, eager, grouped, *forward = context.record.measurements
    assert [m["what"] for m in forward] == ["mixtral, forward"] * 3
    assert ours["by"] == "ours" and eager["none"] == "none here"
    assert grouped["temporary_bytes"] == 40 and ours["temporary_bytes"] > 0
    assert grouped["ms"] == 500 and grouped["to_ours"] == 500 / ours["ms"]
    assert any("PyTorch 0 on none" in note for note in context.record.content["notes"])


def test_without_pytorch_a_line_says_so(context):
    pytorch.run(context._replace(python="/nonexistent"))
    (note,) = context.record.content["notes"]
    assert note == "not compared with PyTorch: --python=/nonexistent cannot be run: " + (
        "No such file or directory"
    )


def test_a_layer_of_ours_is_compiled_once_for_all_that_it_is_compared_with(
    context, python, monkeypatch
):
    made = []

    def our_layer(name, shape, sublayers, tokens, dtype, *, backward):
        made.append((sublayers, shape.shared_expert, backward))
        if made[-1] == (1, False, True):
            raise NotImplementedError("not here")
        return Case(name, lambda: None, 40, 0.5)

    monkeypatch.setattr(pytorch, "our_layer", our_layer)
    pytorch.run(context._replace(python=python))
    assert len(made) == len(set(made)) == 6
    found = context.record.measurements
    ours = {m["what"]: m for m in found if m["by"] == "ours"}
    assert list(ours) == [kind + way for way in ("", ", forward") for kind in pytorch.FORMS]
    broken = [m for m in found if m["what"] == "mixtral"]
    assert [m["none"] for m in broken] == ["NotImplementedError: not here"]
    theirs = [m for m in found if m["by"] != "ours"]
    assert len(theirs) == 2 * (len(ours) - 1)
    assert {m["by"] for m in theirs if "ms" not in m} == {"PyTorch eager"}


def test_where_pytorch_ends_at_once_nothing_is_compiled(context, monkeypatch):
    monkeypatch.setattr(pytorch, "SOON", 30.0)
    monkeypatch.delattr(pytorch, "together")
    pytorch.run(context._replace(python="false"))
    (note,) = context.record.content["notes"]
    assert note.startswith("not compared with PyTorch: PyTorch's process ended")
