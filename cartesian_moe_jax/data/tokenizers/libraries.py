"""The libraries that read tokenizer files, imported where they are needed only."""

import importlib
from types import ModuleType

from cartesian_moe_jax.errors import UserError


def library(name: str, where: str) -> ModuleType:
    """Import a library; raises UserError, which says what needs it, where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"{where} needs the package {name} (pip install {name})") from None


def one_line(error: Exception) -> str:
    """Return what a library says of an error, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
