"""Folders of safetensors files: read tensor by tensor, and written whole or not at all."""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from cartesian_moe_jax.data.tokenizers.libraries import library, one_line
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.paths import AnyPath, is_remote, reported

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

FLOATS = ("F32", "BF16", "F16")
"""Types of tensors that float32 holds exactly."""

SHARD_BYTES = 2 * 10**9
"""Size of a file above which the next is begun; this much is held in memory while it is written."""


class TensorFiles:
    """The tensors of a folder, in one file or in those that an index lists.

    Use as a context. Headers are read at once, tensors when they are asked for.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._stack = contextlib.ExitStack()
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._files: dict[str, Any] = {}

    def __enter__(self) -> "TensorFiles":
        with contextlib.ExitStack() as opening:
            for name in _file_names(self.folder):
                self._open(name, opening)
            self._stack = opening.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def read(self, name: str) -> Shaped[np.ndarray, "..."]:
        """Return a tensor; raises UserError if the file is damaged."""
        with _readable(self.folder, name):
            return self._files[name].get_tensor(name)

    def _open(self, name: str, stack: contextlib.ExitStack) -> None:
        path = self.folder / name
        safe_open = library("safetensors", str(path)).safe_open
        with _readable(self.folder, name):
            file = stack.enter_context(safe_open(os.fspath(path), framework="np"))
            for tensor in file.keys():  # noqa: SIM118, it is no mapping
                header = file.get_slice(tensor)
                if header.get_dtype() not in FLOATS:
                    raise UserError(
                        f"{path}: {tensor} is {header.get_dtype()}: {', '.join(FLOATS)} are read"
                    )
                self._files[tensor] = file
                self.shapes[tensor] = tuple(header.get_shape())


def has_tensors(folder: AnyPath) -> bool:
    """Say whether a folder holds safetensors under the usual names; no remote one does."""
    return not is_remote(folder) and any((folder / name).is_file() for name in (SINGLE, INDEX))


def write_tensors(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], Shaped[np.ndarray, "..."]],
    dtype: np.dtype,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the tensors that ``read`` returns, in one file, or in several with an index."""
    shards = _shards({n: int(np.prod(s)) * dtype.itemsize for n, s in shapes.items()}, shard_bytes)
    names = [_shard_name(i, len(shards)) for i in range(len(shards))]
    for file, tensors in zip(names, shards, strict=True):
        _write_file(folder / file, {name: read(name) for name in tensors}, dtype)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(sum(tensors.values()) for tensors in shards)},
            "weight_map": {n: f for f, t in zip(names, shards, strict=True) for n in t},
        }
        with reported("written", folder / INDEX):
            (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n")


def _write_file(file: Path, tensors: Mapping[str, np.ndarray], dtype: np.dtype) -> None:
    """Write one file; what it holds is copied here, and let go before the next."""
    refused = library("safetensors", str(file)).SafetensorError
    save_file = library("safetensors.numpy", str(file)).save_file
    arrays = {name: np.ascontiguousarray(tensor, dtype) for name, tensor in tensors.items()}
    try:
        save_file(arrays, file, metadata={"format": "pt"})
        file.chmod(0o644)  # the library lets its owner alone read it
    except (refused, OSError) as error:
        raise UserError(f"{file} cannot be written: {one_line(error)}") from error


@contextlib.contextmanager
def whole_folder(target: AnyPath) -> Iterator[AnyPath]:
    """Yield a temporary folder that becomes ``target`` at the end, or is removed.

    ``target`` must not be there, or be empty. An object store cannot rename: it gets the files
    one by one. Raises UserError if the folder cannot be had.
    """
    with reported("read", target):
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise UserError(f"--to={target} is not empty: choose a folder that is not there yet")
    if is_remote(target):
        yield target
        return
    temporary = target.absolute().with_name(f"{target.name}.{uuid.uuid4().hex}.partial")
    with reported("written", target):
        temporary.mkdir(parents=True)
    try:
        yield temporary
        with reported("written", target):
            temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _file_names(folder: Path) -> list[str]:
    """List the files of tensors; raises UserError if there are none, or the index is damaged."""
    index = folder / INDEX
    if not index.is_file():
        if not (folder / SINGLE).is_file():
            pickled = any(folder.glob("pytorch_model*.bin"))
            hint = "; save its pytorch_model.bin as safetensors first" if pickled else ""
            raise UserError(f"{folder} holds no {SINGLE}, and no {INDEX}{hint}")
        return [SINGLE]
    with reported("read", index):
        content = index.read_bytes()
    try:
        names = sorted(set(json.loads(content)["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{index} cannot be read: it holds no weight_map of file names") from None
    for name in names:
        if Path(name).name != name:
            raise UserError(f"{index} lists a file {name!r}: a plain file name is wanted")
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing: {INDEX} lists it")
    return names


@contextlib.contextmanager
def _readable(folder: Path, name: str) -> Iterator[None]:
    refused = library("safetensors", str(folder)).SafetensorError
    try:
        yield
    except UserError:
        raise
    except (refused, OSError, TypeError, ValueError) as error:
        raise UserError(f"{folder}: {name} cannot be read: {one_line(error)}") from error


def _shards(sizes: Mapping[str, int], limit: int) -> list[dict[str, int]]:
    """Cut tensors (size in bytes by name) into runs of at most ``limit`` bytes, or one tensor."""
    shards: list[dict[str, int]] = [{}]
    for name, size in sizes.items():
        if shards[-1] and sum(shards[-1].values()) + size > limit:
            shards.append({})
        shards[-1][name] = size
    return shards


def _shard_name(i: int, count: int) -> str:
    return SINGLE if count == 1 else f"model-{i + 1:05}-of-{count:05}.safetensors"
