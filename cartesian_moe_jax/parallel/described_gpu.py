"""A GPU that is not there, in the words that its compiler reads (a GpuTargetConfigProto)."""

from cartesian_moe_jax.parallel.chips import Chip

RUNTIME = "runtime_version { major: 13 minor: 0 patch: 0 }"
DNN = "dnn_version_info { major: 9 minor: 28 }"
"""Of CUDA and cuDNN, as jax[cuda13] brings them."""


def target_config(chip: Chip) -> str:
    """Return the text that ``get_topology_desc(target_config=...)`` takes."""
    gpu = chip.described
    fields = {
        # The same for all of these since Ampere.
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "threads_per_core_limit": 2048,
        "shared_memory_per_block": 49_152,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65_535,
        "block_dim_limit_z": 65_535,
        "registers_per_core_limit": 65_536,
        "registers_per_block_limit": 65_536,
        "shared_memory_per_core": gpu.shared_memory,
        "shared_memory_per_block_optin": gpu.block_memory,
        "core_count": gpu.cores,
        "fpus_per_core": gpu.lanes,
        "clock_rate_ghz": gpu.clock_ghz,
        "memory_bandwidth": int(chip.memory_bandwidth),
        "l2_cache_size": gpu.l2_bytes,
        "device_memory_size": gpu.memory_bytes,
    }
    listed = " ".join(f"{name}: {value}" for name, value in fields.items())
    capability = f"cuda_compute_capability {{ major: {gpu.compute_capability} }}"
    return (
        f"gpu_device_info {{ {listed} {capability} }} "
        f'platform_name: "CUDA" {DNN} {RUNTIME} device_description_str: "{gpu.name}"'
    )
