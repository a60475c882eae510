"""How a source is packed, and where its tokens lie."""

import os
from pathlib import Path
from typing import NamedTuple

from cartesian_moe_jax.cache import cache_folder
from cartesian_moe_jax.config import DataConfig
from cartesian_moe_jax.data.sources.source import Reading
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.paths import as_path, is_remote

SHARD_TOKENS = 2**26
DOCUMENTS = "documents"


class PackSettings(NamedTuple):
    """How a source is packed."""

    cache_dir: str
    """Where packed tokens lie, also remote (gs://...); they are read through a local copy."""
    validation_share: float = 0.05
    """Expected share of the documents that a hash sends to validation."""
    skip_broken: bool = False
    """Broken lines are counted, not refused."""
    tfds_dir: str = ""
    workers: int = 1
    show: bool = False
    """Show progress bars on standard error."""
    shard_tokens: int = SHARD_TOKENS
    """Most tokens in one shard file."""

    @property
    def local_cache(self) -> Path:
        """The local folder that packed tokens are read from."""
        folder = as_path(self.cache_dir)
        return local_copies() if is_remote(folder) else folder.absolute()

    def reading(self) -> Reading:
        """Return how sources are read."""
        return Reading(
            folder=self.local_cache / DOCUMENTS,
            tfds_dir=self.tfds_dir,
            skip_broken=self.skip_broken,
            workers=self.workers,
        )


def settings_of(data: DataConfig, cache_dir: str, *, show: bool = False) -> PackSettings:
    """Return the settings that a config asks for."""
    return PackSettings(
        cache_dir,
        validation_share=data.validation_share,
        skip_broken=data.broken_lines == "skip",
        tfds_dir=data.tfds_dir,
        workers=data.workers or os.cpu_count() or 1,
        show=show,
    )


def local_copies() -> Path:
    """Return the local folder for copies of what lies in an object store."""
    folder = cache_folder("", "data")
    if is_remote(folder):
        raise UserError(
            f"XDG_CACHE_HOME leads to {folder}: tokens in an object store are read through "
            "copies in a local folder"
        )
    return folder.absolute()
