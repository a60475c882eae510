"""Compiled programs kept on disk: a second start does not compile again."""

import warnings

import jax

from cartesian_moe_jax.paths import AnyPath


def use_compilation_cache(folder: AnyPath) -> None:
    """Keep compiled programs in ``folder``; one that cannot be written only costs time."""
    warnings.filterwarnings("ignore", message="Error writing persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
