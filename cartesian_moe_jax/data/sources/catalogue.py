"""Datasets of the tensorflow-datasets catalogue, and folders prepared in its format.

array_record folders are read without TensorFlow. Preparing a catalogue entry needs TensorFlow and
the network: where one is missing, the error says at once what to run elsewhere.
"""

import importlib.util
import re
import socket
from pathlib import Path
from typing import Any

from cartesian_moe_jax.data.documents import Dataset
from cartesian_moe_jax.errors import UserError, nearest
from cartesian_moe_jax.paths import as_path, is_remote

NETWORK = ("storage.googleapis.com", 443)
NETWORK_SECONDS = 3.0
READABLE = "array_record"
NAME = re.compile(r"([A-Za-z]\w*)(?:/([\w.+-]+))?(?::\d[\w.*]*)?")
"""NAME[/CONFIG][:VERSION]; NAMESPACE:NAME would be looked up on the network."""


def open_builder(name: str, data_dir: str) -> tuple[Any, Dataset]:
    """Return the builder of a prepared dataset, and where it lies; prepare it where that is needed.

    Args:
        name: the folder of one version (with `dataset_info.json`), or a catalogue name such as
            `lm1b` or `wikipedia/20230601.en`.
        data_dir: where catalogue names are prepared; empty: where tensorflow-datasets has them.

    Raises:
        UserError: no such dataset, it is not readable here, or it cannot be prepared here.
    """
    tfds = _import_tfds()
    folder = as_path(name)
    for path in (folder, as_path(data_dir)):
        if is_remote(path):
            raise UserError(f"corpus 'tfds:{name}': {path} must be local: copy the dataset here")
    if (folder / "dataset_info.json").exists():
        builder, place = tfds.builder_from_directory(str(folder)), Dataset(str(folder))
    elif folder.is_dir():
        raise UserError(
            f"corpus 'tfds:{name}': no dataset_info.json in that folder; name the folder of one "
            "version, such as .../lm1b/1.1.0"
        )
    else:
        data_dir = str(as_path(data_dir or tfds.core.constants.DATA_DIR))
        builder, place = _named(tfds, name, data_dir), Dataset(name, data_dir)
        if not _is_prepared(builder):
            _prepare(builder, name, data_dir)
    formats = [builder.info.file_format, *builder.info.alternative_file_formats]
    if READABLE not in {getattr(known, "value", READABLE) for known in formats}:
        raise UserError(
            f"corpus 'tfds:{name}' is prepared as {formats[0].value}, and must be {READABLE} too. "
            "Once, on any machine: pip install tensorflow-cpu apache-beam importlib_resources; "
            "python -m tensorflow_datasets.scripts.convert_format --dataset_version_dir="
            f"{builder.data_path} --out_file_format={READABLE}"
        )
    return builder, place


def _import_tfds() -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise UserError(
            "this corpus needs the package tensorflow-datasets (pip install tensorflow-datasets)"
        ) from None
    return tfds


def _named(tfds: Any, name: str, data_dir: str) -> Any:
    """Return the builder of a name: of what is prepared, in whatever format, else to prepare it."""
    import tensorflow_datasets.text  # noqa: F401  c4, wiki40b and wikipedia are unknown before

    match = NAME.fullmatch(name)
    if match is None:
        raise UserError(
            f"corpus 'tfds:{name}' is neither a folder nor a catalogue name such as lm1b or c4/en"
        )
    try:
        builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
        if _is_prepared(builder):
            return builder
        return tfds.builder(name, data_dir=data_dir, try_gcs=False, file_format=READABLE)
    except tfds.core.DatasetNotFoundError:
        known = sorted(set(tfds.list_builders(with_community_datasets=False)))
        close = nearest(match[1], known)
        raise UserError(
            f"corpus 'tfds:{name}' is neither a folder nor in the tensorflow-datasets catalogue "
            f"of {len(known)} names{close}"
        ) from None
    except (ValueError, AssertionError) as error:
        reason = _refused(tfds.builder_cls(match[1]), match[2], error)
        raise UserError(f"corpus 'tfds:{name}': {reason}") from None


def _is_prepared(builder: Any) -> bool:
    # Its own method warns beside our one line.
    return (as_path(str(builder.data_path)) / "dataset_info.json").exists()


def _refused(builder: Any, config: str | None, error: Exception) -> str:
    """Return why there is no builder of a name that is known."""
    configs = [config.name for config in builder.BUILDER_CONFIGS]
    if config is not None and config not in configs:
        few = f"{len(configs)}, such as {', '.join(configs[:5])}" if configs else "none"
        version = "" if configs else f" (a version is named as in {builder.name}:{builder.VERSION})"
        return f"no config {config!r}; it has {few}{version}{nearest(config, configs)}"
    message = str(error).partition('}": ')[2] or str(error)  # without the call's arguments
    return (message.strip().splitlines() or [type(error).__name__])[0]


def _prepare(builder: Any, name: str, data_dir: str) -> None:
    """Download and prepare a catalogue entry, or say at once why that cannot be done here."""
    if reason := _why_not_here():
        code = (
            "import tensorflow_datasets as tfds, tensorflow_datasets.text; "
            f"tfds.builder('{name}', data_dir='DIR', file_format='{READABLE}')"
            ".download_and_prepare()"
        )
        raise UserError(
            f"corpus 'tfds:{name}' is not prepared in {data_dir}, and cannot be here ({reason}). "
            "Once, on any machine with network: pip install tensorflow-cpu importlib_resources; "
            f'python -c "{code}"; then copy DIR here and set --config.data.tfds_dir=DIR'
        )
    try:
        builder.download_and_prepare()
    except Exception as error:
        # Whatever a third-party builder does: downloads, manual steps, Beam.
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"corpus 'tfds:{name}' could not be prepared: {first}") from error


def _why_not_here() -> str:
    if importlib.util.find_spec("tensorflow") is None:
        return "TensorFlow is not installed"
    try:
        socket.create_connection(NETWORK, timeout=NETWORK_SECONDS).close()
    except OSError as error:
        return f"no network: {NETWORK[0]} {error.strerror or error}"
    return ""


def fingerprint_of(builder: Any) -> list[Any]:
    """Return the names, sizes and times of a prepared dataset's files."""
    folder = Path(builder.data_path)
    rows = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        status = path.stat()
        rows.append([path.name, status.st_size, status.st_mtime_ns])
    return [builder.info.full_name, rows]
