"""The platform that programs are compiled for: that of the devices at hand, or a foreign one."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import NamedTuple

import jax


class _Foreign(NamedTuple):
    platform: str
    device: jax.Device | None


_FOREIGN: contextvars.ContextVar[_Foreign | None] = contextvars.ContextVar("foreign", default=None)


def target_platform() -> str:
    """Return cpu, gpu or tpu: what kernels and dtypes are chosen by."""
    foreign = _FOREIGN.get()
    return foreign.platform if foreign else jax.default_backend()


def target_device() -> jax.Device | None:
    """Return a device of those that programs are compiled for; None if it is not known."""
    foreign = _FOREIGN.get()
    return foreign.device if foreign else jax.devices()[0]


def device_kind() -> str:
    """Return what that device is called, as in NVIDIA H200; empty if it is not known."""
    device = target_device()
    return device.device_kind if device else ""


@contextlib.contextmanager
def compiling_for(platform: str, device: jax.Device | None = None) -> Iterator[None]:
    """Choose for another platform than that of the devices at hand, and for one of its devices.

    What jax traced before, it keeps: use one platform in one process.
    """
    token = _FOREIGN.set(_Foreign(platform, device))
    try:
        yield
    finally:
        _FOREIGN.reset(token)
