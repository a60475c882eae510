"""How fast is a training step of the paper's model, and of its dense twin."""

import functools

from benchmarks.gpu.clock import REPEATS, attempt, together
from benchmarks.gpu.context import Context, memory_limit, model_config
from benchmarks.step import dense_twin, step_case
from benchmarks.timing import Case
from cartesian_moe_jax.config import Config
from cartesian_moe_jax.kernels.leg_trials import time_run


def run(context: Context) -> None:
    """Time the model at the largest batch that fits, then its dense twin at the same."""
    sizes, name = context.sizes, " ".join(context.sizes.model)
    for batch in sizes.batches:
        config = model_config(sizes, batch, sizes.seq_len)
        both = {name: config, "dense twin": dense_twin(config)}
        model, twin = together(functools.partial(_case, *each) for each in both.items())
        if _timed(context, name, config, model):
            _timed(context, "dense twin", both["dense twin"], twin)
            context.record.note("the two were compiled at the same time")
            return
        del model, twin  # their states take memory from those of the next batch


def _case(name: str, config: Config) -> Case:
    return step_case(name, config)[0]


def _timed(context: Context, name: str, config: Config, case: Case | str) -> bool:
    batch, seq_len = config.training.batch_size, config.data.seq_len
    found = {"what": name, "batch": batch, "seq_len": seq_len}
    series = 5 * context.sizes.seconds
    ms = _time(series, case)
    if isinstance(ms, str):
        context.record.note(f"{name}, batch {batch}: {ms}")
        return False
    context.record.add(
        **found,
        ms=ms,
        tokens_per_s=1e3 * batch * seq_len / ms,
        **context.rate(case.flops, ms, series),
        temporary_bytes=case.temporary_bytes,
        compile_seconds=case.compile_seconds,
    )
    return True


def _time(seconds: float, case: Case | str) -> float | str:
    """The milliseconds of a step, or why they cannot be had."""
    if isinstance(case, str):
        return case
    if case.temporary_bytes > 0.9 * memory_limit():
        return f"it would need {case.temporary_bytes / 1e9:.0f} GB beside its state"
    return attempt(lambda: time_run(case.run, (), seconds, REPEATS))
