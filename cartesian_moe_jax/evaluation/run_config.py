"""The config that a run is evaluated with: its own, but for where and how it is measured."""

import dataclasses

from jax.sharding import Mesh

from cartesian_moe_jax import config as schema
from cartesian_moe_jax.config import Config, ParallelConfig
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.evaluation.changeable import CHANGEABLE, Changes, allowed
from cartesian_moe_jax.parallel.mesh import batch_parts, mesh_of

ROWS_UNTRAINED = 8
"""Sequences on a device where nothing tells how many it takes: the run was not trained here."""


def changed(config: Config, changes: Changes) -> Config:
    """Return the config with other values; raises UserError where they are not allowed.

    What is said of ``parallel`` replaces all that the run says: it had its own devices.
    """
    values = dataclasses.asdict(config)
    if changes.get("parallel"):
        values["parallel"] = {}
    for section, fields in changes.items():
        for name in fields:
            if name not in CHANGEABLE.get(section, ()):
                raise UserError(f"config.{section}.{name} is not allowed: {allowed()}")
        values[section] = {**values[section], **fields}
    return schema.read(values)


def mesh_here(config: Config, changes: Changes) -> tuple[Config, Mesh]:
    """Return the run's mesh where it fits the devices here, else all of them on the data axis.

    A mesh that was asked for must fit; raises UserError if it does not.
    """
    try:
        return config, mesh_of(config)
    except UserError:
        if changes.get("parallel"):
            raise
    config = dataclasses.replace(config, parallel=ParallelConfig())
    return config, mesh_of(config)


def with_batch_of(
    config: Config, changes: Changes, mesh: Mesh, parts: int | None, *, trained: bool
) -> Config:
    """Return the config with an evaluation batch that fits the devices of ``mesh``.

    Unless another was asked for, none of them gets more than one had in training, where the batch
    had so many ``parts`` (None: as many as here).
    """
    if changes.get("evaluation", {}).get("batch_size"):
        return config
    here, training = batch_parts(mesh), config.training
    wanted = config.evaluation.batch_size or training.batch_size // training.accumulate
    most = -(-wanted // (parts or here)) if trained else ROWS_UNTRAINED
    evaluation = dataclasses.replace(config.evaluation, batch_size=min(wanted, most * here))
    return dataclasses.replace(config, evaluation=evaluation)
