"""Where packed data and compiled programs are kept between runs."""

import os
from pathlib import Path


def cache_folder(configured: str, kind: str) -> Path:
    """Return ``configured`` if it is set, else ``kind`` in the user's cache of this package."""
    if configured:
        return Path(configured).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "cartesian_moe_jax" / kind
