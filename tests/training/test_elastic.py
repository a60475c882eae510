"""A checkpoint written on one mesh and layout continues on any other, and on other processes."""

import shutil

import pytest

from cartesian_moe_jax.runs.metrics_log import read_metrics
from tests import several

CHAIN = [
    # Processes, devices of all of them, and how they are used.
    (1, 8, {"layout": "data", "data": 8}),
    (1, 8, {"layout": "expert_fsdp", "fsdp": 2, "expert": 4}),
    (1, 1, {"layout": "data", "data": 1}),
    (2, 8, {"layout": "expert_tensor", "data": 2, "expert": 2, "tensor": 2}),
]
STEPS = 5
"""Between changes."""


def keep_until(workdir, step):
    """Leave the run as it was when it had been stopped at a step."""
    (workdir / "result.json").unlink()
    for checkpoint in (workdir / "checkpoints").iterdir():
        if int(checkpoint.name) > step:
            shutil.rmtree(checkpoint)
    assert (workdir / "checkpoints" / str(step)).is_dir()


@pytest.mark.long
def test_a_run_continues_on_other_meshes_layouts_and_processes(finished_run, tmp_path):
    workdir = tmp_path / "run"
    theirs = read_metrics(finished_run.workdir / "metrics.jsonl")
    expected = {r["step"]: r["loss"] for r in theirs if "loss" in r}
    often = [f"--config.training.checkpoint_every={STEPS}", "--config.training.keep_checkpoints=9"]
    for link, (count, devices, parallel) in enumerate(CHAIN):
        if link:
            keep_until(workdir, link * STEPS)
        ones = dict.fromkeys(("data", "fsdp", "expert", "tensor"), 1)
        flags = [f"--config.parallel.{k}={v}" for k, v in {**ones, **parallel}.items()]
        told = several.by_flags if count > 1 else several.by_nothing
        command = [*finished_run.command, *often, *flags, f"--workdir={workdir}"]
        several.run(count, *command, told=told, devices=devices)
        records = [r for r in read_metrics(workdir / "metrics.jsonl") if "loss" in r]
        assert [r["step"] for r in records] == list(range(1, 21))
        losses = {r["step"]: r["loss"] for r in records}
        assert losses == pytest.approx(expected, rel=1e-5), parallel
