"""The lm-evaluation-harness, imported where it is needed only, and what it would print."""

import contextlib
import importlib
import io
import logging
import os
import random
from collections.abc import Iterator
from importlib.metadata import version
from types import ModuleType

import numpy as np

from cartesian_moe_jax.errors import UserError

NAME = "lm_eval"


def require_library() -> None:
    """Raise UserError, which says how to install it, where it is not."""
    try:
        importlib.import_module(NAME)
    except ImportError as error:
        raise UserError(
            f"downstream tasks need the lm-evaluation-harness ({error}): pip install -e '.[eval]'"
        ) from None


def library(module: str) -> ModuleType:
    """Return a module of the harness; ``require_library`` says that there is one."""
    return importlib.import_module(f"{NAME}.{module}")


def library_version() -> str:
    """Return the version of the harness, which numbers depend on."""
    return version(NAME)


@contextlib.contextmanager
def as_its_command_does(*, show: bool = False) -> Iterator[None]:
    """Run it with the seeds of its own command, and without processes of its own.

    A process that has used jax must not be forked. Unless they are to be shown, its bars are not.
    """
    for name in (NAME, "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    datasets = importlib.import_module("datasets")
    (datasets.enable_progress_bars if show else datasets.disable_progress_bars)()
    random_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(1234)
    os.environ["DISABLE_MULTIPROC"] = "1"
    unread = contextlib.ExitStack()
    if not show:
        unread.enter_context(contextlib.redirect_stderr(io.StringIO()))
        unread.enter_context(contextlib.redirect_stdout(io.StringIO()))
    try:
        with unread:
            yield
    finally:
        random.setstate(random_state)
        np.random.set_state(numpy_state)
