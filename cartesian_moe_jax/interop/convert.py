"""Conversion of run directories to the official format, and of official checkpoints to runs."""

import dataclasses
from pathlib import Path

from cartesian_moe_jax.data.tokenizers import build_tokenizer
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.interop.official_model import is_official, read_model, write_model
from cartesian_moe_jax.interop.safetensors_files import whole_folder
from cartesian_moe_jax.interop.tokenizer_files import (
    find_tokenizer,
    tokenizer_setting,
    write_tokenizer,
)
from cartesian_moe_jax.models.vocabulary import with_vocabulary
from cartesian_moe_jax.parallel.mesh import single_device_mesh
from cartesian_moe_jax.paths import AnyPath, is_remote
from cartesian_moe_jax.runs.directory import RunDirectory
from cartesian_moe_jax.runs.parameters import Parameters, load_run, write_run

DTYPES = ("float32", "bfloat16")
"""What official tensors are written as; our parameters are float32."""

EVALUATION_BATCH = 8
"""Sequences at once when a converted run is evaluated; the default is a training batch."""


def convert(
    source: AnyPath,
    target: AnyPath,
    *,
    step: int | None = None,
    tokenizer: str = "",
    dtype: str = "float32",
) -> list[str]:
    """Convert the checkpoint in ``source`` to the other format, and return lines that say so.

    ``step`` chooses one of a run, the newest if None. ``tokenizer`` is for an official checkpoint
    that has none beside it; ``dtype`` is that of official tensors.
    Raises UserError if either folder, the config or the tensors do not allow it.
    """
    if is_official(source):
        if step:
            raise UserError(f"--step={step} is not allowed: {source} holds one, of step 0")
        return _to_run(source, target, tokenizer)
    if tokenizer:
        raise UserError(f"--tokenizer={tokenizer} is not allowed: the run {source} has its own")
    return _to_official(source, target, step, dtype)


def _to_run(source: Path, target: AnyPath, setting: str) -> list[str]:
    setting = tokenizer_setting(source, setting)
    if not setting:
        raise UserError(
            f"{source} holds no tokenizer.json and no tokenizer.model, and a run needs a "
            "tokenizer: --tokenizer=bytes, or the path of one, is wanted"
        )
    tokenizer = find_tokenizer(source, setting)
    RunDirectory(target)  # refuses object stores that cannot hold one
    with whole_folder(target) as folder:
        config, parameters = read_model(source, single_device_mesh())
        data = dataclasses.replace(config.data, tokenizer=setting)
        evaluation = dataclasses.replace(config.evaluation, batch_size=EVALUATION_BATCH)
        config = dataclasses.replace(config, data=data, evaluation=evaluation)
        config = with_vocabulary(config, tokenizer.vocab_size)
        run = RunDirectory(folder)
        write_run(run, config, parameters, tokenizer.description(), source=str(source))
    return [
        f"{target}: a run of {_count(parameters)} parameters, to evaluate and to load; training "
        "cannot continue it, since the official format has no optimizer state, but "
        f"config.training.initial={target} begins another run with its parameters"
    ]


def _to_official(source: AnyPath, target: AnyPath, step: int | None, dtype: str) -> list[str]:
    if is_remote(target):
        raise UserError(f"--to={target} is not allowed: official checkpoints are local folders")
    if dtype not in DTYPES:
        raise UserError(f"--dtype={dtype} is not allowed: one of {', '.join(DTYPES)}")
    run = RunDirectory.of_existing(source)
    with whole_folder(target) as folder:
        config, parameters, step = load_run(run, step)
        tokenizer = build_tokenizer(run.read_json("tokenizer.json"))
        end_of_text = tokenizer.end_of_text
        write_model(folder, config, parameters, dtype=dtype, end_of_text=end_of_text)
        write_tokenizer(folder, tokenizer.description())
    return [
        f"{target}: step {step} of {source} in the official format, {_count(parameters)} "
        f"parameters in {dtype}"
    ]


def _count(parameters: Parameters) -> str:
    return f"{sum(value.size for value in parameters.values()):,}"
