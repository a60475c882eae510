"""The timings that come with the package."""

from importlib import resources

import pytest

from cartesian_moe_jax import kernels
from cartesian_moe_jax.kernels import by_leg, timings
from cartesian_moe_jax.kernels.leg_trials import feed_forward_legs, operations

FILES = sorted((resources.files(kernels) / "measured").iterdir(), key=lambda file: file.name)
FASTEST_CHIP = 1e15
"""Operations per second that no GPU here reaches."""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_can_be_read_and_every_choice_computes_its_shape(file):
    found = timings.parse(file.read_text(), file.name)
    assert found and len({timing[:2] for timing in found}) == len(found)
    for timing in found:
        assert by_leg.fits(timing.choice, timing.shape), timing
        assert 0 < operations(timing.shape) / (timing.ms / 1e3) < FASTEST_CHIP, timing


@pytest.fixture
def on_h200(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(by_leg, "device_kind", lambda: "NVIDIA H200")
    timings.timings_of.cache_clear()
    yield
    timings.timings_of.cache_clear()


def test_a_known_gpu_chooses_by_them(on_h200):
    known = timings.timings_of("NVIDIA H200")
    for shape in feed_forward_legs(32768, 64, 2048, 1024, "bfloat16"):
        best = min((t for t in known if t.shape == shape), key=lambda timing: timing.ms)
        assert by_leg.choose(shape, ("triton", "hopper")) == best.choice


@pytest.mark.parametrize(("rows", "experts"), [(4096, 256), (8192, 512)])
def test_where_experts_have_few_rows_they_say_nothing(rows, experts, on_h200):
    """The nearest was measured with eight times as many rows an expert, in tiles of 128."""
    for shape in feed_forward_legs(rows, experts, 1024, 512, "bfloat16"):
        default = by_leg.default(shape, ("triton", "hopper"))
        assert by_leg.choose(shape, ("triton", "hopper")) == default
