"""Datasets of the tensorflow-datasets catalogue, and folders prepared in its format.

array_record folders are read without TensorFlow. Preparing a catalogue entry needs TensorFlow and
the network: where one is missing, the error says at once what to run elsewhere.
"""

import importlib.util
import socket
from pathlib import Path
from typing import Any

from cartesian_moe_jax.data.documents import Dataset
from cartesian_moe_jax.errors import UserError, nearest
from cartesian_moe_jax.paths import as_path

NETWORK = ("storage.googleapis.com", 443)
NETWORK_SECONDS = 3.0
READABLE = "array_record"


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
        if not builder.is_prepared():
            _prepare(builder, name, data_dir)
    file_format = builder.info.file_format
    if file_format is not None and file_format.value != READABLE:
        raise UserError(
            f"corpus 'tfds:{name}' is prepared as {file_format.value}, which needs TensorFlow to "
            f"read; once, where that is installed: tfds convert_format --dataset_dir="
            f"{builder.data_path} --out_file_format={READABLE} --out_path=DIR; then tfds:DIR"
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
    import tensorflow_datasets.text  # noqa: F401  c4, wiki40b and wikipedia are unknown before

    try:
        return tfds.builder(name, data_dir=data_dir, try_gcs=False, file_format=READABLE)
    except tfds.core.DatasetNotFoundError:
        known = tfds.list_builders(with_community_datasets=False)
        close = nearest(name.partition("/")[0], known)
        raise UserError(
            f"corpus 'tfds:{name}' is neither a folder nor in the tensorflow-datasets catalogue "
            f"of {len(known)} names{close}"
        ) from None
    except (ValueError, AssertionError) as error:
        module = tfds.builder_cls(name.partition("/")[0])
        raise UserError(_wrong_config(name, module, error)) from None


def _wrong_config(name: str, builder: Any, error: Exception) -> str:
    configs = [config.name for config in builder.BUILDER_CONFIGS]
    config = name.partition("/")[2].partition(":")[0]
    if configs and config not in configs:
        few = f"; it has {len(configs)}, such as {', '.join(configs[:5])}"
        return f"corpus 'tfds:{name}': no config {config!r}{nearest(config, configs)}{few}"
    return f"corpus 'tfds:{name}': {str(error).splitlines()[0]}"


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
