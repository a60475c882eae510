"""How fast is a training step of the paper's model, and of its dense twin."""

from typing import Any

import jax

from benchmarks.gpu.clock import REPEATS
from benchmarks.gpu.context import Context, memory_limit, model_config
from benchmarks.step import dense_twin, step_case
from benchmarks.timing import Case
from cartesian_moe_jax.config import Config
from cartesian_moe_jax.kernels.leg_trials import time_run
from cartesian_moe_jax.kernels.tuning import one_line


def run(context: Context) -> None:
    """Time the model at the largest batch that fits, then its dense twin at the same."""
    sizes = context.sizes
    for batch in sizes.batches:
        config = model_config(sizes, batch, sizes.seq_len)
        if _timed(context, " ".join(sizes.model), config):
            _timed(context, "dense twin", dense_twin(config))
            return


def _timed(context: Context, name: str, config: Config) -> bool:
    batch, seq_len = config.training.batch_size, config.data.seq_len
    found = {"what": name, "batch": batch, "seq_len": seq_len}
    done = _measure(context.sizes.seconds, name, config)
    if isinstance(done, str):
        context.record.note(f"{name}, batch {batch}: {done}")
        return False
    case, ms = done
    context.record.add(
        **found,
        ms=ms,
        tokens_per_s=1e3 * batch * seq_len / ms,
        **context.rate(case.flops, ms),
        temporary_bytes=case.temporary_bytes,
        compile_seconds=case.compile_seconds,
    )
    return True


def _measure(seconds: float, name: str, config: Config) -> tuple[Case, float] | str:
    """The case and its milliseconds, or why it cannot be had."""
    try:
        case, _ = step_case(name, config)
        if case.temporary_bytes > 0.9 * memory_limit():
            return f"it would need {case.temporary_bytes / 1e9:.0f} GB beside its state"

        def step() -> Any:
            return case.run()

        return case, time_run(step, (), 5 * seconds, REPEATS)
    except jax.errors.JaxRuntimeError as error:
        return one_line(error)
