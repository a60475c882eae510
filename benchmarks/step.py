"""The training step of a model against that of its dense twin, and where its time goes.

    python -m benchmarks.step --config=configs/quickstart.py --breakdown

In the dense twin every MoE sub-layer is a feed-forward as wide as what a token uses of it: equal
depth, equal active parameters but for the routers. Tokens are random, routers new. The peak is
the best rate of a square matrix product in the same process.
"""

import argparse
import dataclasses
import json
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int

from benchmarks.breakdown import breakdown
from benchmarks.timing import Case, Timing, format_table, peak_case, peak_line, time_cases
from cartesian_moe_jax.config import Config
from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.models.cost import model_cost, whole
from cartesian_moe_jax.models.fitting_mesh import mesh_of
from cartesian_moe_jax.models.language_model import compute_dtype
from cartesian_moe_jax.models.vocabulary import with_vocabulary
from cartesian_moe_jax.parallel.layouts import layout_of
from cartesian_moe_jax.parallel.mesh import batch_sharding
from cartesian_moe_jax.training.memory import take_memory
from cartesian_moe_jax.training.optimizer import Rates, make_optimizer
from cartesian_moe_jax.training.state import TrainState, make_create_state
from cartesian_moe_jax.training.step import make_train_step

HEADER = ("step", "ms", "quartiles", "ratio", "tokens/s", "of peak", "temporary MB", "compile s")


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was timed, and what the model's step is made of."""

    timings: list[Timing]
    """The model's, its dense twin's, and the square matrix product's."""
    parts: dict[str, float]
    """Shares of the model's time; empty if they were not asked for."""


def dense_twin(config: Config) -> Config:
    """Return the config whose MoE sub-layers are feed-forwards as wide as what a token uses."""
    moe = config.model.moe
    shared = moe.shared_feed_forwards if moe.shared_expert else 0
    width = (moe.top_k + shared) * moe.d_expert
    stacked = dataclasses.replace(moe, layer="stacked", d_expert=width)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, moe=stacked))


class Step(NamedTuple):
    """A compiled training step, and what it starts from."""

    program: Any
    """Of state and tokens; the state's memory is used again."""
    state: TrainState
    tokens: Int[Array, "batch seq_plus_1"]
    """Random."""
    compile_seconds: float


def compile_step(config: Config) -> Step:
    """Compile a training step on random tokens."""
    mesh = mesh_of(config)
    layout, steps = layout_of(config.parallel), config.training.steps
    rows, seq_len = config.training.batch_size, config.data.seq_len
    shape = (rows, seq_len + 1)
    tokens = np.random.default_rng(0).integers(0, config.model.vocab_size, shape, np.int32)
    rates = Rates.of(config.optimizer)
    with jax.set_mesh(mesh):
        optimizer = make_optimizer(config.optimizer, steps, rates)
        skeleton = abstract_model(config.model, layout)
        step = make_train_step(skeleton, optimizer, config.model, config.training.accumulate)
        state = make_create_state(config.model, layout, optimizer, mesh)(np.uint32(0))
        tokens = jax.device_put(tokens, batch_sharding(mesh))
        out = (jax.tree.map(lambda leaf: leaf.sharding, state), None)
        start = time.perf_counter()
        jitted = jax.jit(step, donate_argnums=0, out_shardings=out)
        compiled = jitted.lower(state, tokens).compile()
        seconds = time.perf_counter() - start
    return Step(compiled, state, tokens, seconds)


def step_case(name: str, config: Config) -> tuple[Case, Any]:
    """Compile a training step on random tokens; return it as a case, and the program.

    The state is that of the step before, as in training.
    """
    program, state, tokens, seconds = compile_step(config)
    held = [state]

    def run() -> Any:
        held[0], report = program(held[0], tokens)
        return held[0], report

    temporary = program.memory_analysis().temp_size_in_bytes
    count = config.training.batch_size * config.data.seq_len
    needed = count * whole(model_cost(config)).training_flops
    return Case(name, run, temporary, seconds, needed), program


def measure(config: Config, rounds: int, *, with_parts: bool) -> Measured:
    """Time the step, its twin and the matrix product, interleaved."""
    case, program = step_case("model", config)
    peak = peak_case(compute_dtype(config.model.compute_dtype))
    timings = time_cases([case, step_case("dense twin", dense_twin(config))[0], peak], rounds)
    parts = dict(breakdown(program, case.run, rounds)) if with_parts else {}
    return Measured(timings, parts)


def table(measured: Measured, tokens: int) -> str:
    """Return the timings, and the parts by share."""
    *steps, peak = measured.timings
    rows = [
        (
            timing.case.name,
            f"{timing.median:.1f}",
            timing.quartiles(),
            f"{timing.median / steps[-1].median:.2f}",
            f"{1e3 * tokens / timing.median:,.0f}",
            timing.of_peak(peak),
            f"{timing.case.temporary_bytes / 1e6:.0f}",
            f"{timing.case.compile_seconds:.1f}",
        )
        for timing in steps
    ]
    lines = [format_table(HEADER, rows), peak_line(peak)]
    for part, share in sorted(measured.parts.items(), key=lambda item: -item[1]):
        lines.append(f"{part:14} {share:6.1%}")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write the JSON file if asked to."""
    from configs.flags import config_of  # not at the top: the step alone needs no ml_collections

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--vocab_size", type=int, default=257)
    parser.add_argument("--breakdown", action="store_true", help="also print each part's share")
    parser.add_argument("--json", help="file to write the measurements to")
    flags, rest = parser.parse_known_args()
    config = with_vocabulary(config_of(rest), flags.vocab_size)
    take_memory(config.model)
    measured = measure(config, flags.rounds, with_parts=flags.breakdown)
    print(table(measured, config.training.batch_size * config.data.seq_len))
    if flags.json:
        records = [timing.record() for timing in measured.timings]
        with open(flags.json, "w") as file:
            json.dump({"measurements": records, "parts": measured.parts}, file, indent=1)


if __name__ == "__main__":
    main()
