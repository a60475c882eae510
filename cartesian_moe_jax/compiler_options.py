"""Compiler options that matter, by the platform that programs are compiled for, with reasons."""

from collections.abc import Mapping

from cartesian_moe_jax.platform import target_platform

Options = Mapping[str, bool | int]

STEP: Mapping[str, Options] = {
    "tpu": {
        # Or a device waits for its tokens to travel: the shared expert is computed meanwhile.
        "xla_tpu_enable_async_all_to_all": True,
        # Or every product with a split weight becomes a ring of small products, one per device:
        # at 64 devices, programs that take minutes to compile.
        "xla_tpu_enable_windowed_einsum_for_all_gather": False,
        "xla_tpu_enable_windowed_einsum_for_reduce_scatter": False,
    },
}
"""Of training and evaluation steps."""

RUN_ONCE: Mapping[str, Options] = {
    "cpu": {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
}
"""Of a program that runs once: on CPU, optimising it takes longer than running."""


def options_of(table: Mapping[str, Options]) -> dict[str, bool | int]:
    """Return what a table says of the platform that programs are compiled for."""
    return dict(table.get(target_platform(), {}))
