"""Checkpoints: complete or absent, and what does not fit is named."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.runs.checkpoints import Checkpoints
from tests.messages import message_of

ITEMS = {
    "parameters": {"head": jnp.arange(6.0).reshape(2, 3), "norm/gain": jnp.ones(3)},
    "optimizer": ({"count": jnp.asarray(7)}, (), [{"norm/gain": jnp.full(3, 0.5)}]),
}

FILL_THE_DISK = """
import resource, sys
from pathlib import Path
import numpy as np, jax.numpy as jnp
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.runs.checkpoints import Checkpoints

def items(size):
    noise = jnp.asarray(np.random.default_rng(0).random(size, np.float32))
    return {"parameters": {"head": noise}, "optimizer": {"mu": noise}}

try:
    with Checkpoints(Path(sys.argv[1]), keep=1) as checkpoints:
        checkpoints.save(1, items(100), {"training_seconds": 1.0})
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
        checkpoints.save(2, items(2**20), {"training_seconds": 2.0})
except UserError as error:
    print(error)
"""


def abstract(items):
    """What a checkpoint must fit: shapes, dtypes, and one device to lie on."""
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), items)


def changed(**parameters):
    """The abstract items with other parameters; None leaves one out."""
    both = ITEMS["parameters"] | parameters
    kept = {name: value for name, value in both.items() if value is not None}
    return abstract({"parameters": kept})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Steps 1, 2 and 3 saved with keep=2."""
    folder = tmp_path_factory.mktemp("checkpoints")
    with Checkpoints(folder, keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, ITEMS, {"training_seconds": float(step)})
    return folder


def test_arrays_and_progress_come_back(folder):
    with Checkpoints(folder, read_only=True) as checkpoints:
        items, progress = checkpoints.restore(3, abstract(ITEMS))
    jax.tree.map(np.testing.assert_array_equal, items, ITEMS)
    assert jax.tree.structure(items) == jax.tree.structure(ITEMS)
    assert progress == {"training_seconds": 3.0}


def test_some_are_kept_however_old(tmp_path):
    with Checkpoints(tmp_path, keep=1, always=(2, 9)) as checkpoints:
        for step in (1, 2, 3, 4):
            checkpoints.save(step, ITEMS, {})
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [2, 4]


def test_only_the_newest_are_kept_and_chosen_from(folder):
    with Checkpoints(folder, read_only=True) as checkpoints:
        assert checkpoints.newest() == checkpoints.choose(None) == 3
        assert checkpoints.choose(2) == 2
        with pytest.raises(UserError, match=r"step=1 has no checkpoint in .*: there are 2, 3$"):
            checkpoints.choose(1)


def test_keep_one_removes_the_one_before(tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        for step in (5, 10):
            checkpoints.save(step, ITEMS, {})
    assert [path.name for path in tmp_path.iterdir()] == ["10"]


@pytest.mark.parametrize("read_only", [False, True])
def test_a_folder_that_is_not_there_yet_holds_none(tmp_path, read_only):
    with Checkpoints(tmp_path / "checkpoints", read_only=read_only) as checkpoints:
        assert checkpoints.newest() is None
        with pytest.raises(UserError, match="holds no complete checkpoint"):
            checkpoints.choose(None)


@pytest.mark.parametrize(
    "wanted, words",
    [
        (changed(head=jnp.zeros((2, 4))), ["head is float32[2, 3], wanted float32[2, 4]"]),
        (
            changed(head=jnp.zeros((2, 3), jnp.bfloat16)),
            ["head is float32[2, 3], wanted bfloat16[2, 3]"],
        ),
        (changed(tail=jnp.zeros(3)), ["tail is missing"]),
        (changed(head=None), ["head is extra"]),
        (changed(head=None, tail=jnp.zeros(3)), ["tail is missing; head is extra"]),
        (
            changed(**{f"layer{i}": jnp.zeros(3) for i in range(9)}),
            ["layer0 is missing", "layer5 is missing; and 3 more"],
        ),
    ],
)
def test_what_does_not_fit_is_named(folder, wanted, words):
    with Checkpoints(folder, read_only=True) as checkpoints, pytest.raises(UserError) as caught:
        checkpoints.restore(3, wanted)
    assert str(caught.value).startswith(f"checkpoint {folder / '3'} does not fit the config: ")
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_item_that_was_not_saved_is_named(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"parameters": ITEMS["parameters"]}, {})
        checkpoints.wait()
        with pytest.raises(UserError, match=r"cannot be read: it holds no optimizer$"):
            checkpoints.restore(1, abstract(ITEMS))


def damaged(folder, how):
    """A copy of the checkpoints whose step 3 is damaged."""
    if how == "cut":
        for file in (folder / "3" / "parameters").rglob("d/*"):
            file.write_bytes(file.read_bytes()[:10])
    elif how == "missing":
        shutil.rmtree(folder / "3" / "parameters")
    else:  # files that are whole, and hold other numbers
        other = {"parameters": ITEMS["parameters"] | {"norm/gain": jnp.array([1.0, -0.0, 1.0])}}
        with Checkpoints(folder.with_name("other")) as checkpoints:
            checkpoints.save(1, other, {})
        shutil.rmtree(folder / "3" / "parameters")
        shutil.copytree(folder.with_name("other") / "1" / "parameters", folder / "3" / "parameters")


@pytest.mark.parametrize(
    "how, reason",
    [
        ("cut", ".*"),
        ("missing", "it holds no parameters"),
        ("other", "its parameters are not what was written"),
    ],
)
def test_a_damaged_checkpoint_is_never_read_and_the_one_before_is_named(
    folder, tmp_path, how, reason
):
    copy = tmp_path / "checkpoints"
    shutil.copytree(folder, copy)
    damaged(copy, how)
    with Checkpoints(copy, read_only=True) as checkpoints:
        said = message_of(checkpoints.restore, 3, abstract(ITEMS))
    where = re.escape(str(copy / "3"))
    hint = f"step 2 is there too: --step=2 reads it, and without the folder {where} the run .* it"
    assert re.fullmatch(f"checkpoint {where} cannot be read: {reason}; {hint}", said)
    shutil.rmtree(copy / "3")
    with Checkpoints(copy) as checkpoints:
        items, _ = checkpoints.restore(checkpoints.newest(), abstract(ITEMS))
    jax.tree.map(np.testing.assert_array_equal, items, ITEMS)


def test_a_checkpoint_without_checksums_is_read(tmp_path, monkeypatch):
    """As earlier versions wrote it."""
    with Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr("cartesian_moe_jax.runs.checkpoints.CHECKSUMS", "of_another_time")
        checkpoints.save(1, ITEMS, {})
        monkeypatch.undo()
        checkpoints.wait()
        items, _ = checkpoints.restore(1, abstract(ITEMS))
    jax.tree.map(np.testing.assert_array_equal, items, ITEMS)


def test_a_full_disk_is_one_line_and_the_previous_step_stays(tmp_path):
    program = [sys.executable, "-c", FILL_THE_DISK, str(tmp_path)]
    root = Path(__file__).parents[2]
    done = subprocess.run(program, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    for words in (str(tmp_path), "step 1 is the newest complete", "File too large"):
        assert words in done.stdout
    saved = {"parameters": {"head": jnp.zeros(100)}, "optimizer": {"mu": jnp.zeros(100)}}
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        assert checkpoints.choose(None) == checkpoints.newest() == 1
        items, progress = checkpoints.restore(1, abstract(saved))
        assert float(jnp.sum(items["parameters"]["head"])) > 1
        assert progress == {"training_seconds": 1.0}
        # There is room again: step 2 can be written as if nothing had been there.
        checkpoints.save(2, saved, {})
    assert [path.name for path in tmp_path.iterdir()] == ["2"]
