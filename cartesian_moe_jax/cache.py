"""Where packed data and compiled programs are kept between runs."""

import os

from cartesian_moe_jax.paths import AnyPath, as_path


def cache_folder(configured: str, kind: str) -> AnyPath:
    """Return ``configured`` if it is set, else ``kind`` in the user's cache of this package."""
    if configured:
        return as_path(configured)
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return as_path(home) / "cartesian_moe_jax" / kind
