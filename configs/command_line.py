"""A command line, from flags to exit status; what is wrong becomes one line and status 2."""

import errno
import os
import re
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.process_memory import keep_freed_memory
from configs import processes

WRONG_INPUT, INTERRUPTED = 2, 130
DISK_ERRORS = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES)

Refusal = Callable[[str], str]
"""What is wrong with a flag that is not known; empty: nothing but that."""


def run(
    main: Callable[[], int | None],
    refusal: Refusal = lambda name: "",
    stopped: str = "stopped: the same command continues",
) -> None:
    """Parse the command line, call ``main``, and exit with what it returns (None: 0).

    ``stopped`` is what to say when Ctrl-C ends it.
    """
    app.run(lambda argv: _guarded(main, stopped), flags_parser=lambda argv: _parse(argv, refusal))


def parsed(
    values: flags.FlagValues, argv: Sequence[str], refusal: Refusal = lambda name: ""
) -> list[str]:
    """Give the flags their values from ``argv``; raises UserError."""
    try:
        rest = values(list(argv))
    except (AttributeError, KeyError) as error:
        raise UserError(f"a config field is unknown: {one_line(error)}") from error
    except flags.UnrecognizedFlagError as error:
        raise UserError(refusal(error.flagname) or one_line(error)) from error
    except (flags.Error, TypeError, ValueError, OSError) as error:
        raise UserError(one_line(error)) from error
    if rest[1:]:
        raise UserError(f"{rest[1]!r} is not a flag: all arguments are --name=value")
    return rest


def one_line(error: Exception) -> str:
    """Return the message without the quotes and line ends that ml_collections puts around it."""
    if ours := re.search(r"UserError: (.*)", str(error)):
        return ours[1]  # behind the traceback of a preset that refused its argument
    return str(error).replace("\\n", "; ").replace("\\", "").replace("'", "").replace("\n", "; ")


def _parse(argv: Sequence[str], refusal: Refusal) -> list[str]:
    try:
        return parsed(flags.FLAGS, argv, refusal)
    except UserError as error:
        processes.end(WRONG_INPUT, str(error), error)


def _guarded(main: Callable[[], int | None], stopped: str) -> None:
    if not any("verbosity" in argument for argument in sys.argv[1:]):
        # Or Orbax writes pages, and its callbacks after a failed save more, beside our one line.
        logging.set_verbosity(logging.FATAL)
        sys.unraisablehook = lambda unraisable: None
    keep_freed_memory()
    try:
        status = main() or 0
    except UserError as error:
        processes.end(WRONG_INPUT, str(error), error)
    except KeyboardInterrupt as interrupt:
        print(stopped, file=sys.stderr)
        processes.end(INTERRUPTED, error=interrupt)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            file, why = error.filename or "a file", os.strerror(error.errno)
            processes.end(WRONG_INPUT, f"{file} cannot be written: {why}", error)
        processes.end_unexpectedly(error)
        raise
    processes.end(status)
