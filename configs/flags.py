"""From a command line to a checked Config; what is wrong becomes one line and exit status 2."""

import errno
import os
import re
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging
from ml_collections import config_flags

from cartesian_moe_jax import config as schema
from cartesian_moe_jax.config import Config
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.process_memory import keep_freed_memory
from configs import processes

WRONG_INPUT, INTERRUPTED = 2, 130
DISK_ERRORS = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES)

_CONFIG = config_flags.DEFINE_config_file("config", None, "A preset, e.g. configs/quickstart.py.")


def config() -> Config:
    """Return the checked config that the flags describe."""
    return _checked(_CONFIG, flags.FLAGS)


def config_of(arguments: Sequence[str]) -> Config:
    """Return the checked config of ``--config`` arguments alone; raises UserError."""
    values = flags.FlagValues()
    argv = ["", *arguments]
    holder = config_flags.DEFINE_config_file(
        "config", None, "A preset.", flag_values=values, sys_argv=argv
    )
    _known(values, argv)
    return _checked(holder, values)


def run(main: Callable[[], int | None]) -> None:
    """Parse the command line, call ``main``, and exit with what it returns (None: 0)."""
    app.run(lambda argv: _guarded(main), flags_parser=_parse)


def _checked(holder: flags.FlagHolder, values: flags.FlagValues) -> Config:
    if holder.value is None:
        raise UserError("--config is missing: name a preset, e.g. --config=configs/quickstart.py")
    try:
        fields = holder.value.to_dict()
    except OSError as error:
        name = config_flags.get_config_filename(values["config"])
        reason = _one_line(error).split(";")[-1].strip()
        raise UserError(f"--config={name} cannot be read: {reason}") from error
    return schema.read(fields)


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        return _known(flags.FLAGS, argv)
    except UserError as error:
        processes.end(WRONG_INPUT, str(error), error)


def _known(values: flags.FlagValues, argv: Sequence[str]) -> list[str]:
    try:
        rest = values(list(argv))
    except (AttributeError, KeyError) as error:
        raise UserError(f"a config field is unknown: {_one_line(error)}") from error
    except (flags.Error, TypeError, ValueError, OSError) as error:
        raise UserError(_one_line(error)) from error
    if rest[1:]:
        raise UserError(f"{rest[1]!r} is not a flag: all arguments are --name=value")
    return rest


def _guarded(main: Callable[[], int | None]) -> None:
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
        print("stopped: the same command continues", file=sys.stderr)
        processes.end(INTERRUPTED, error=interrupt)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            file, why = error.filename or "a file", os.strerror(error.errno)
            processes.end(WRONG_INPUT, f"{file} cannot be written: {why}", error)
        processes.end_unexpectedly(error)
        raise
    processes.end(status)


def _one_line(error: Exception) -> str:
    """Return the message without the quotes and line ends that ml_collections puts around it."""
    if ours := re.search(r"UserError: (.*)", str(error)):
        return ours[1]  # behind the traceback of a preset that refused its argument
    return str(error).replace("\\n", "; ").replace("\\", "").replace("'", "").replace("\n", "; ")
