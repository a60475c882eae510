"""The platform that programs are compiled for: that of the devices at hand, or a foreign one."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_FOREIGN: contextvars.ContextVar[str | None] = contextvars.ContextVar("foreign", default=None)


def target_platform() -> str:
    """Return cpu, gpu or tpu: what kernels and dtypes are chosen by."""
    return _FOREIGN.get() or jax.default_backend()


def device_kind() -> str:
    """Return what the devices at hand are called, as in NVIDIA H200; empty for foreign ones."""
    return "" if _FOREIGN.get() else jax.devices()[0].device_kind


@contextlib.contextmanager
def compiling_for(platform: str) -> Iterator[None]:
    """Choose for another platform than that of the devices at hand.

    What jax traced before, it keeps: use one platform in one process.
    """
    token = _FOREIGN.set(platform)
    try:
        yield
    finally:
        _FOREIGN.reset(token)
