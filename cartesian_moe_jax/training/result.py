"""The end of a run: evaluation, baseline, text sample, as one machine-readable result."""

import importlib.metadata
import platform
from typing import Any

import jax

from cartesian_moe_jax.data.prepared import PreparedData
from cartesian_moe_jax.evaluation.ngram import trigram_baseline
from cartesian_moe_jax.evaluation.perplexity import Evaluation
from cartesian_moe_jax.models.budget import (
    active_parameters,
    total_parameters,
    training_flops_per_token,
)
from cartesian_moe_jax.training.speed import Speedometer
from cartesian_moe_jax.training.trainer import Trainer

PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain")


def make_result(
    trainer: Trainer,
    parameters: dict[str, jax.Array],
    validation: Evaluation,
    speed: Speedometer,
    seconds: float,
) -> dict[str, Any]:
    """Return the content of result.json: what was measured of the parameters, and of the run."""
    config = trainer.config
    return {
        "steps": config.training.steps,
        "tokens": config.training.steps * config.training.batch_size * config.data.seq_len,
        "training_seconds": seconds,
        "tokens_per_second": speed.tokens / speed.seconds if speed.seconds else None,
        "parameters": total_parameters(parameters),
        "active_parameters": active_parameters(parameters, config.model),
        "training_flops_per_token": training_flops_per_token(
            parameters, config.model, config.data.seq_len
        ),
        "validation": validation.as_dict(),
        "baseline": _baseline(trainer.data) if config.evaluation.baseline else None,
        "sample": trainer.evaluator.sample(parameters),
        "data": _data(trainer.data),
        "machine": _machine(trainer),
    }


def _data(data: PreparedData) -> dict[str, Any]:
    return {
        "corpus": data.spec,
        "content_hash": data.content_hash,
        "tokenizer": data.tokenizer.identity(),
        "train_tokens": {part.name: len(part.tokens) for part in data.train},
    }


def _baseline(data: PreparedData) -> dict[str, Any] | None:
    """Measure a trigram model on the same text; None for a mixture."""
    if len(data.train) > 1 or len(data.validation) > 1:
        return None
    measured = trigram_baseline(data.train[0].tokens, data.validation[0].tokens, data.tokenizer)
    return {
        "name": f"3-gram of {measured.symbols}, interpolated Kneser-Ney",
        "bits_per_byte": measured.bits_per_byte,
    }


def _machine(trainer: Trainer) -> dict[str, Any]:
    return {
        "devices": trainer.mesh.size,
        "device_kind": jax.devices()[0].device_kind,
        "mesh": dict(trainer.mesh.shape),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }
