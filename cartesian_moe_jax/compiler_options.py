"""Compiler options that matter, by the platform that programs are compiled for, with reasons."""

from collections.abc import Mapping

from jax.sharding import Mesh

from cartesian_moe_jax.platform import target_platform

Options = Mapping[str, bool | int | str]

STEP: Mapping[str, Options] = {
    "tpu": {
        # Or a device waits for its tokens to travel: the shared expert is computed meanwhile.
        "xla_tpu_enable_async_all_to_all": True,
        # Or every product with a split weight becomes a ring of small products, one per device:
        # at 64 devices, programs that take minutes to compile.
        "xla_tpu_enable_windowed_einsum_for_all_gather": False,
        "xla_tpu_enable_windowed_einsum_for_reduce_scatter": False,
    },
    # Kernels run while collectives do. The default of the versions that we pin, and much depends
    # on it. Autotuning is left as it is: its results are kept with the compiled programs.
    "gpu": {"xla_gpu_enable_latency_hiding_scheduler": True},
    # This pass ends the process where a sum over devices is of bfloat16 and inside a shard_map over
    # some of the mesh's axes, as that of the head's gradient is. Another one makes it float32.
    "cpu": {"xla_disable_hlo_passes": "all-reduce-promotion"},
}
"""Of training and evaluation steps."""

GATHERS_IN_PARTS: Mapping[str, Options] = {
    # This pass moves sums over devices out of loops. It fails the compilation where parameters
    # split over a whole slice are gathered in the loop, which becomes a sum too.
    "tpu": {"xla_disable_hlo_passes": "while-loop-all-reduce-code-motion"},
}
"""Besides, of training steps in parts, if parameters are split over devices that split batches."""

REFUSED: Mapping[str, frozenset[str]] = {
    # "Async all-to-all not supported on limited ICI": from 8x8 chips on; smaller slices do without.
    "TPU v5 lite": frozenset({"xla_tpu_enable_async_all_to_all"}),
}
"""By kind of device, options of the platform that its compiler does not take."""

RUN_ONCE: Mapping[str, Options] = {
    "cpu": {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
}
"""Of a program that runs once: on CPU, optimising it takes longer than running."""


def options_of(*tables: Mapping[str, Options]) -> dict[str, bool | int | str]:
    """Return what tables say of the platform that programs are compiled for."""
    platform = target_platform()
    return {name: value for table in tables for name, value in table.get(platform, {}).items()}


def step_options(mesh: Mesh) -> dict[str, bool | int | str]:
    """Return those of an evaluation step on the devices of a mesh."""
    return _without_refused(options_of(STEP), mesh)


def train_step_options(mesh: Mesh, parts: int) -> dict[str, bool | int | str]:
    """Return those of a training step in `parts`, on the devices of a mesh."""
    gathers = parts > 1 and mesh.shape["fsdp"] > 1
    return _without_refused(options_of(STEP, *[GATHERS_IN_PARTS] * gathers), mesh)


def _without_refused(
    options: dict[str, bool | int | str], mesh: Mesh
) -> dict[str, bool | int | str]:
    refused = REFUSED.get(mesh.devices.flat[0].device_kind, frozenset())
    return {name: value for name, value in options.items() if name not in refused}
