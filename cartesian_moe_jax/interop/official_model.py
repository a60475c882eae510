"""A model in the official implementation's format: config.json beside safetensors files."""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from cartesian_moe_jax.config import Config, ModelConfig
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.interop.official_config import read_official, write_official
from cartesian_moe_jax.interop.official_names import WITHOUT_WEIGHT, all_pieces, pieces
from cartesian_moe_jax.interop.safetensors_files import (
    SHARD_BYTES,
    TensorFiles,
    has_tensors,
    write_tensors,
)
from cartesian_moe_jax.models.build import abstract_model, abstract_parameters
from cartesian_moe_jax.models.parameters import named_parameters
from cartesian_moe_jax.parallel.layouts import LAYOUTS
from cartesian_moe_jax.paths import AnyPath, is_remote, reported
from cartesian_moe_jax.runs.checkpoints import require_fit
from cartesian_moe_jax.runs.parameters import Parameters

TABLE = "model.router_tokens.weight"
LISTED = 6
"""Tensors that do not fit which a message names; of more it gives the number."""


def is_official(folder: AnyPath) -> bool:
    """Say whether a folder is, or is meant to be, a checkpoint in the official format."""
    if is_remote(folder):
        return False
    try:
        values = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return has_tensors(folder)
    return "model" not in values and (has_tensors(folder) or "hidden_size" in values)


def read_model(folder: Path, mesh: Mesh) -> tuple[Config, Parameters]:
    """Read a checkpoint in the official format: its config, and our parameters, replicated.

    One parameter after the other is put together, so little more than the model is in memory.
    Raises UserError if the config is not ours to run, or the tensors are not those of the config.
    """
    with _opened(folder) as (config, tensors):
        model = abstract_model(config.model, LAYOUTS["data"])
        wanted = abstract_parameters(model, LAYOUTS["data"], mesh)
        return config, _parameters(tensors, wanted, config.model)


def check_official(folder: Path, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> Config:
    """Return the config of a checkpoint; raises UserError unless its parameters are ``wanted``."""
    with _opened(folder) as (config, _):
        theirs = named_parameters(abstract_model(config.model, LAYOUTS["data"]))
        require_fit(str(folder), theirs, wanted)
        return config


def read_parameters(folder: Path, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> Parameters:
    """Read the parameters of a checkpoint that fits, laid out as ``wanted`` says."""
    with _opened(folder) as (config, tensors):
        return _parameters(tensors, wanted, config.model)


def write_model(
    folder: Path,
    config: Config,
    parameters: Mapping[str, Float[Array, "..."]],
    *,
    dtype: str = "float32",
    end_of_text: int | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write config.json and the tensors of a model; raises UserError for what cannot be said."""
    values = write_official(config, end_of_text) | {"torch_dtype": dtype}
    theirs = all_pieces(parameters, config.model)
    shapes = {name: theirs[name][1].official_shape() for name in sorted(theirs, key=_by_layer)}

    def tensor(name: str) -> np.ndarray:
        ours, piece = theirs[name]
        return piece.to_theirs(np.asarray(parameters[ours]))

    write_tensors(folder, shapes, tensor, jax.numpy.dtype(dtype), shard_bytes)
    with reported("written", folder):
        (folder / "config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[tuple[Config, TensorFiles]]:
    """Yield the config and the tensors, which fit each other."""
    file, layout = folder / "config.json", LAYOUTS["data"]
    with TensorFiles(folder) as tensors:
        has_table = TABLE in tensors.shapes
        config = read_official(_read_json(file), has_table=has_table, where=str(file))
        _check_fit(tensors, named_parameters(abstract_model(config.model, layout)), config.model)
        yield config, tensors


def _parameters(
    tensors: TensorFiles, wanted: Mapping[str, jax.ShapeDtypeStruct], model: ModelConfig
) -> Parameters:
    return {name: _put_together(name, shape, tensors, model) for name, shape in wanted.items()}


def _put_together(
    name: str, shape: jax.ShapeDtypeStruct, tensors: TensorFiles, model: ModelConfig
) -> Float[Array, "..."]:
    """Return a parameter of ours, each piece of it read from a tensor of theirs."""
    parameter = np.empty(shape.shape, shape.dtype)
    for piece in pieces(name, shape.shape, model):
        parameter[piece.index] = piece.to_ours(tensors.read(piece.name))
    # Each device takes its part; those of other processes are theirs to fill.
    return jax.make_array_from_callback(shape.shape, shape.sharding, lambda part: parameter[part])


def _check_fit(
    tensors: TensorFiles, wanted: Mapping[str, jax.ShapeDtypeStruct], model: ModelConfig
) -> None:
    """Raise UserError that names the tensors that are misshapen, missing or extra."""
    theirs = all_pieces(wanted, model)
    expected = {name: piece.official_shape() for name, (_, piece) in theirs.items()}
    there = {n: shape for n, shape in tensors.shapes.items() if not WITHOUT_WEIGHT.search(n)}
    lines = [
        f"{name} is {list(there[name])}, wanted {list(shape)}"
        for name, shape in expected.items()
        if there.get(name, shape) != shape
    ]
    lines += [f"{name} is missing" for name in expected if name not in there]
    lines += [f"{name} is extra" for name in there if name not in expected]
    if lines:
        more = f"; and {len(lines) - LISTED} more" if len(lines) > LISTED else ""
        raise UserError(
            f"{tensors.folder} does not fit its config.json: {'; '.join(lines[:LISTED])}{more}"
        )


def _read_json(file: Path) -> dict[str, Any]:
    with reported("read", file):
        content = file.read_bytes()
    try:
        values = json.loads(content)
    except ValueError as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{file} cannot be read: it holds no object")
    return values


def _by_layer(name: str) -> list[Any]:
    """Order names with their numbers as numbers: layer 2 before layer 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
