"""What --target may say, and what it needs."""

import pytest

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.parallel.chips import CHIPS
from cartesian_moe_jax.parallel.described_gpu import target_config
from cartesian_moe_jax.parallel.targets import parse_target
from cartesian_moe_jax.study.layouts import setups


@pytest.mark.parametrize(
    ("text", "size", "cells", "chip"),
    [
        ("cpu:8", 8, 1, None),
        ("local", None, 1, None),
        ("tpu:v5p:4x4x4", 64, 1, "TPU v5p"),
        ("tpu:v5p:4x4x4@2", 128, 2, "TPU v5p"),
        ("tpu:v6e:8x8", 64, 1, "TPU v6 lite"),
        ("tpu:v5e:16x16", 256, 1, "TPU v5 lite"),
        ("gpu:h200:1x8", 8, 1, "NVIDIA H200"),
        ("gpu:h100:4x8", 32, 4, "NVIDIA H100"),
    ],
)
def test_targets_are_read(text, size, cells, chip):
    target = parse_target(text)
    assert (target.size, target.cells, target.chip) == (size, cells, chip and CHIPS[chip])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("mars:8", "tpu:CHIP:SHAPE"),
        ("cpu", "cpu:8"),
        ("cpu:0", "cpu:8"),
        ("local:2", "local"),
        ("tpu:v9:2x2", "v5e, v5p, v6e"),
        ("tpu:v6e:4x4x4", "tpu:v6e:8x8"),
        ("tpu:v5p:8x8", "tpu:v5p:4x4x4"),
        ("tpu:v5p:4x4x4@0", "@2"),
        ("gpu:h200:8", "HOSTSxGPUS"),
        ("gpu:gtx:1x8", "h100, h200"),
    ],
)
def test_wrong_targets_are_one_line_that_says_what_is_allowed(text, named):
    with pytest.raises(UserError, match="--target") as caught:
        parse_target(text)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_compiler_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setenv("TPU_LIBRARY_PATH", "/nowhere/libtpu.so")
    with pytest.raises(UserError, match=r"/nowhere/libtpu\.so.*make targets"):
        setups.setup_of(parse_target("tpu:v5e:2x2"))
    with pytest.raises(UserError, match=r"/nowhere/python.*make targets-gpu"):
        setups.setup_of(parse_target("gpu:h200:1x8"), python="/nowhere/python")


def test_a_cpu_target_has_its_devices_whatever_the_environment_says(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1 --xla_force_host_platform_device_count=8 --xla_b=2")
    flags = setups.setup_of(parse_target("cpu:4")).environment["XLA_FLAGS"].split()
    assert flags == ["--xla_a=1", "--xla_b=2", "--xla_force_host_platform_device_count=4"]


def test_a_described_gpu_has_its_own_figures():
    text = target_config(CHIPS["NVIDIA A100"])
    for said in ("core_count: 108", "device_memory_size: 85100068864", "major: 8", "A100"):
        assert said in text
