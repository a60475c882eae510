"""From --config flags to a checked Config; importing this makes them flags of the program."""

from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from cartesian_moe_jax import config as schema
from cartesian_moe_jax.config import Config
from cartesian_moe_jax.errors import UserError
from configs.command_line import one_line, parsed

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
    parsed(values, argv)
    return _checked(holder, values)


def _checked(holder: flags.FlagHolder, values: flags.FlagValues) -> Config:
    if holder.value is None:
        raise UserError("--config is missing: name a preset, e.g. --config=configs/quickstart.py")
    try:
        fields = holder.value.to_dict()
    except OSError as error:
        name = config_flags.get_config_filename(values["config"])
        reason = one_line(error).split(";")[-1].strip()
        raise UserError(f"--config={name} cannot be read: {reason}") from error
    return schema.read(fields)
