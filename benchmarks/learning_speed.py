"""How much of the loss one optimizer step takes away through each group of weights.

    python -m benchmarks.learning_speed --config=configs/study.py:cpu,cartesian --at=0,100,500

The gain of a group is -<gradient, update>, summed over its weights: to first order, what the loss
falls by when they alone are moved. The update is that of the run's next batch; the gradient is
the mean over other batches, so that noise, which a batch shares with its own update, counts for
nothing. Shown per unit of learning rate, so that warm-up and decay do not matter, and without
clipping and decay. Adam moves every weight equally far: what differs between groups is how much
the loss cares.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.config import Config
from cartesian_moe_jax.data.tokenizers import resolve_tokenizer
from cartesian_moe_jax.models.parameters import trainable, with_parameters
from cartesian_moe_jax.models.vocabulary import with_vocabulary
from cartesian_moe_jax.process_memory import keep_freed_memory
from cartesian_moe_jax.training.loop import prepare
from cartesian_moe_jax.training.state import TrainState
from cartesian_moe_jax.training.step import objective
from cartesian_moe_jax.training.trainer import Trainer
from configs.flags import config_of

GROUPS = {
    "routed experts": "/experts/",
    "shared experts": "/shared_expert/",
    "routers": "/router/",
    "attention": "/attention/",
    "dense feed-forwards": "/feed_forward/",
    "embedding, head, norms": "",
}
"""A weight belongs to the first group whose words are in its name."""
FAR = 1_000_000
"""The batches of the gradient begin here, far from those trained on."""

Parameters = dict[str, Float[Array, "..."]]


def group_of(name: str) -> str:
    """Return the group of a parameter."""
    return next(group for group, words in GROUPS.items() if words in name)


def gains(gradients: Parameters, updates: Parameters) -> dict[str, Float[Array, ""]]:
    """Return the sum of -gradient * update over each group that there is."""
    found: dict[str, Float[Array, ""]] = {}
    for name, gradient in gradients.items():
        group = group_of(name)
        found[group] = found.get(group, 0.0) - jnp.vdot(gradient, updates[name])
    return found


def make_probe(trainer: Trainer) -> Callable[..., dict[str, Float[Array, ""]]]:
    """Return (state, batch, others) -> gains per unit of learning rate; compile it."""
    model, optimizer = trainer.config.model, trainer.config.optimizer
    adam = optax.scale_by_adam(b1=optimizer.beta1, b2=optimizer.beta2, eps=optimizer.eps)

    def gradient(parameters: Parameters, tokens: Int[Array, "batch seq_plus_1"]) -> Parameters:
        def loss(moved: Parameters) -> Float[Array, ""]:
            skeleton = with_parameters(trainer.evaluator.skeleton, parameters | moved)
            return objective(skeleton, tokens, model)[1][0]

        return jax.grad(loss)(trainable(parameters))

    def probe(
        state: TrainState,
        batch: Int[Array, "batch seq_plus_1"],
        others: Int[Array, "batches batch seq_plus_1"],
    ) -> dict[str, Float[Array, ""]]:
        found = jax.lax.map(lambda tokens: gradient(state.parameters, tokens), others)
        mean = jax.tree.map(lambda g: jnp.mean(g, 0), found)
        moments = _adam_state(state.optimizer)
        moves, _ = adam.update(gradient(state.parameters, batch), moments)
        return gains(mean, jax.tree.map(jnp.negative, moves))

    return jax.jit(probe)


def _adam_state(state: Any) -> optax.ScaleByAdamState:
    """Return the moments within an optimizer's state."""
    leaves = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, optax.ScaleByAdamState))
    return next(leaf for leaf in leaves if isinstance(leaf, optax.ScaleByAdamState))


def measure(config: Config, steps: list[int], others: int) -> dict[int, dict[str, float]]:
    """Train until the last of ``steps``; return the gains at each of them, by group."""
    tokenizer = resolve_tokenizer(config.data.tokenizer, config.data.end_of_text)
    config = with_vocabulary(config, tokenizer.vocab_size)
    trainer = Trainer(config, prepare(config, tokenizer))
    with jax.set_mesh(trainer.mesh):
        state, probe = trainer.create_state(), make_probe(trainer)
        ahead = trainer.batches(FAR)
        held_out = jnp.stack([trainer.place(next(ahead)) for _ in range(others)])
        batches, found = trainer.batches(0), {}
        for step in range(max(steps) + 1):
            batch = trainer.place(next(batches))
            if step in steps:
                found[step] = {k: float(v) for k, v in probe(state, batch, held_out).items()}
            state, _ = trainer.step(state, batch)
    return found


def table(found: Mapping[int, Mapping[str, float]]) -> str:
    """Return a line for each group and a column for each step."""
    groups = [group for group in GROUPS if any(group in gains for gains in found.values())]
    lines = [f"{'gain per unit of learning rate':30}" + "".join(f"{s:>12}" for s in found)]
    for group in groups:
        lines.append(f"{group:30}" + "".join(f"{g.get(group, 0):12.2f}" for g in found.values()))
    return "\n".join(lines)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--at", default="0,100,500", help="steps, joined by commas")
    parser.add_argument("--others", type=int, default=16, help="batches of the gradient")
    parser.add_argument("--json", help="where the numbers are written")
    arguments, rest = parser.parse_known_args()
    keep_freed_memory()
    found = measure(config_of(rest), [int(s) for s in arguments.at.split(",")], arguments.others)
    print(table(found))
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
