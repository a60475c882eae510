"""That PyTorch's model learns as ours does: else the times of its training step prove nothing.

The config that is timed is compared at small sizes, in float32 and from equal weights: logits, the
losses of some steps on the same tokens, and how far they move each weight (gradients, clipping,
AdamW, warm-up). The balance loss is ours alone, so it is switched off here; it is on when our step
is timed.
"""

import dataclasses
import functools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from benchmarks.parity import torch_weights
from benchmarks.step import Step, compile_step
from cartesian_moe_jax.config import Config, ParallelConfig
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.models.block import Block
from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.models.fitting_mesh import mesh_of
from cartesian_moe_jax.models.language_model import LanguageModel
from cartesian_moe_jax.models.parameters import with_parameters
from cartesian_moe_jax.parallel.layouts import LAYOUTS

Weights = Mapping[str, Float[np.ndarray, "..."]]
STEPS, WARM_UP = 3, 2
"""The rates are 0, half of the peak, and the peak."""
JITTER = 0.1
"""Added to the initial weights, so that no gain is one and no bias zero."""
LARGEST = {"logits": 1e-4, "losses": 1e-4, "moves": 5e-3}
"""Largest differences that float32 explains. Those of moves are relative: AdamW makes a whole step
of a gradient that is hardly more than rounding."""
ONLY = {
    "model.activation": "swiglu",
    "model.rms_norm_eps": 1e-5,
    "model.rope_base": 10_000.0,
    "model.moe.interval": 1,
    "model.moe.first_layer": 0,
    "model.moe.layer": "cartesian",
    "model.moe.router": "softmax_top_k",
    "model.moe.shared_expert": True,
    "model.moe.shared_feed_forwards": 1,
    "model.moe.shared_expert_not_in": "",
    "optimizer.name": "adamw",
    "optimizer.expert_rate": 1.0,
    "optimizer.expert_reference_width": 0,
    "training.accumulate": 1,
}
"""What PyTorch's model and its training can be."""


class Trained(NamedTuple):
    """What some steps from equal weights give."""

    logits: Float[np.ndarray, "batch seq vocab"]
    """Before the first of them."""
    losses: Float[np.ndarray, " steps"]
    after: Weights
    """By PyTorch's names."""


class Trains(Protocol):
    """PyTorch's process."""

    def train(self, file: Path, **wanted: Any) -> Path:
        """Train on the weights and tokens of an .npz; return the .npz of what ``Trained`` has."""


def shape_of(config: Config) -> dict[str, float]:
    """Return the fields of PyTorch's ``Shape``; UserError where its model is another."""
    for name, only in ONLY.items():
        found = functools.reduce(getattr, name.split("."), config)
        if found != only:
            raise UserError(
                f"config.{name}={found!r} is not allowed: PyTorch's model knows {only!r} alone"
            )
    model, moe = config.model, config.model.moe
    return {
        "d_model": model.d_model,
        "d_expert": moe.d_expert,
        "experts": moe.num_experts,
        "top_k": moe.top_k,
        "sublayers": moe.sublayers,
        "layers": model.num_layers,
        "heads": model.num_heads,
        "vocab_size": model.vocab_size,
        "std": model.init_std,
    }


def optimizer_of(config: Config) -> dict[str, float]:
    """Return the fields of PyTorch's ``AdamW``, which are called as ours."""
    names = ("learning_rate", "warmup_steps", "beta1", "beta2", "eps", "weight_decay", "clip_norm")
    return {name: getattr(config.optimizer, name) for name in names}


def small(config: Config) -> Config:
    """Return the config at the sizes that are compared, without the balance loss.

    Tokens are few: where a router all but ties, rounding decides, and a token goes elsewhere.
    """
    model, moe = config.model, config.model.moe
    of_moe = {"num_experts": moe.top_k + 4, "d_expert": 24, "balance_loss": 0.0, "z_loss": 0.0}
    moe, devices = dataclasses.replace(moe, **of_moe), jax.device_count()
    rows = -(-8 // devices) * devices
    sizes = {"d_model": 32, "num_layers": 2, "num_heads": 4, "vocab_size": 64}
    return dataclasses.replace(
        config,
        model=dataclasses.replace(model, **sizes, moe=moe, compute_dtype="float32"),
        data=dataclasses.replace(config.data, seq_len=8),
        optimizer=dataclasses.replace(config.optimizer, warmup_steps=WARM_UP),
        training=dataclasses.replace(config.training, batch_size=rows, steps=100),
        parallel=dataclasses.replace(ParallelConfig(), data=-1),
    )


def model_weights(model: LanguageModel) -> Weights:
    """Return the model's weights under the names and in the layout of benchmarks/pytorch."""
    (segment,) = model.segments
    (stacked,) = segment.blocks
    found = {
        "embedding.weight": model.embedding[...],
        "norm.weight": model.norm.gain[...],
        "head.weight": model.head[...].T,
    }
    for i in range(segment.repeats):
        block = jax.tree.map(lambda leaf, i=i: leaf[i], stacked)
        found |= _block_weights(block, i)
    return {name: np.array(value) for name, value in found.items()}


def _block_weights(block: Block, i: int) -> Mapping[str, Float[Array | np.ndarray, "..."]]:
    attention, d_model = block.attention, block.norm.gain.shape[0]

    def rows(weight: nnx.Param) -> Float[Array, "heads_x_d_head d_model"]:
        return weight[...].reshape(d_model, -1).T

    qkv = [rows(weight) for weight in (attention.query, attention.key, attention.value)]
    of_layer = torch_weights(block.feed_forward)
    return {
        f"norms.{i}.weight": block.norm.gain[...],
        f"attentions.{i}.qkv.weight": np.concatenate(qkv),
        f"attentions.{i}.out.weight": attention.out[...].reshape(-1, d_model).T,
        **{f"mixtures.{i}.{name}": weight for name, weight in of_layer.items()},
    }


def train_ours(config: Config, step: Step) -> Trained:
    """Take some of our steps."""
    skeleton = abstract_model(config.model, LAYOUTS["data"])
    program, state, tokens, _ = step
    with jax.set_mesh(mesh_of(config)):
        logits = jax.jit(lambda weights, ids: with_parameters(skeleton, weights)(ids)[0])(
            state.parameters, tokens[:, :-1]
        )
    losses = []
    for _ in range(STEPS):
        state, report = program(state, tokens)
        losses.append(report.loss)
    after = model_weights(with_parameters(skeleton, state.parameters))
    return Trained(np.asarray(logits), np.array(losses), after)


def jittered(step: Step) -> Step:
    """Return the step with initial weights that are all off their usual values."""
    rng = np.random.default_rng(0)

    def off(value: Float[Array, "..."]) -> Float[Array, "..."]:
        moved = np.asarray(value) + JITTER * rng.standard_normal(value.shape, np.float32)
        return jax.device_put(moved, value.sharding)

    moved = {name: off(value) for name, value in step.state.parameters.items()}
    return step._replace(state=step.state._replace(parameters=moved))


def compare(ours: Trained, theirs: Trained, before: Weights) -> dict[str, float]:
    """Return the differences that LARGEST bounds."""

    def move(name: str) -> float:
        apart = np.linalg.norm(theirs.after[name] - ours.after[name])
        return float(apart / np.linalg.norm(ours.after[name] - before[name]))

    return {
        "logits": float(np.abs(theirs.logits - ours.logits).max()),
        "losses": float(np.abs(theirs.losses - ours.losses).max()),
        "moves": max(map(move, before)),
    }


def check(torch: Trains, forms: Sequence[str], config: Config) -> list[str]:
    """Return a line on each form's differences; SystemExit where one is too large."""
    return [_line(form, found) for form, found in differences(torch, forms, config).items()]


def _line(form: str, found: Mapping[str, float]) -> str:
    said = ", ".join(f"{value:.1e} in its {what}" for what, value in found.items())
    if not all(found[what] <= largest for what, largest in LARGEST.items()):
        raise SystemExit(f"PyTorch's {form} model differs from ours by {said}: not comparable")
    return f"PyTorch's {form} model differs from ours by {said} at equal weights"


def differences(torch: Trains, forms: Sequence[str], config: Config) -> dict[str, dict[str, float]]:
    """Return, for each form of PyTorch's experts, how far its model is from ours."""
    config = small(config)
    wanted = {"shape": shape_of(config), "optimizer": optimizer_of(config), "steps": STEPS}
    step = jittered(compile_step(config))
    skeleton = abstract_model(config.model, LAYOUTS["data"])
    before = model_weights(with_parameters(skeleton, step.state.parameters))
    ours, found = train_ours(config, step), {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.npz"
        np.savez(file, tokens=np.asarray(step.tokens), **before)
        for form in forms:
            with np.load(torch.train(file, experts=form, **wanted)) as arrays:
                after = {name: arrays[name] for name in before}
                theirs = Trained(arrays["logits"], arrays["losses"], after)
            found[form] = compare(ours, theirs, before)
    return found
