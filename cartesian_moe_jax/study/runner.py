"""A study from its config to its records: tune, train, measure, one run after another.

WORKDIR/records/   a small file for each finished run: all that the report needs
WORKDIR/runs/      run directories as train.py makes them; those that only tuned are removed
"""

import gc
import shutil
from collections.abc import Callable
from typing import Any

import jax

from cartesian_moe_jax.columns import columns
from cartesian_moe_jax.config import Config
from cartesian_moe_jax.data.tokenizers import resolve_tokenizer
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.models.feed_forwards import moe_layers
from cartesian_moe_jax.models.vocabulary import with_vocabulary
from cartesian_moe_jax.paths import AnyPath, is_remote
from cartesian_moe_jax.runs.run_lock import RunInUseError
from cartesian_moe_jax.study.about import about_of
from cartesian_moe_jax.study.clock import Clock
from cartesian_moe_jax.study.matched import HEADER, matched_cells
from cartesian_moe_jax.study.measured import measured_of_result, measured_of_routing
from cartesian_moe_jax.study.plan import (
    Run,
    comparison_run,
    given_rates,
    model_facts,
    require_untouched_rates,
    run_config,
    seeds_of,
    tuning_run,
)
from cartesian_moe_jax.study.record import (
    RECORDS,
    TUNING,
    Record,
    read_records,
    require_setting,
    write_record,
)
from cartesian_moe_jax.study.setting import setting_of
from cartesian_moe_jax.study.tuning import Grid, Rates, best, grid_of, next_trial
from cartesian_moe_jax.study.variants import (
    Variant,
    bases_of,
    parse_variants,
    variant_config,
)
from cartesian_moe_jax.training.divergence import DivergedError
from cartesian_moe_jax.training.loop import prepare, train
from cartesian_moe_jax.training.trainer import check_trainable


class Stopped(Exception):
    """A signal stopped the run in hand, which has a checkpoint: the same command continues."""

    def __init__(self, signal: int | None):
        super().__init__(signal)
        self.signal = signal


class Study:
    """The runs of one study that are made here; records made elsewhere may lie beside them."""

    def __init__(self, config: Config, workdir: AnyPath, say: Callable[[str], None] = print):
        """Prepare the data; raises UserError for whatever is wrong before anything is trained."""
        self.workdir, self.say = workdir, say
        self.variants = parse_variants(config.study.methods)
        self.seeds = seeds_of(config.study)
        bases_of(config.study)
        tokenizer = resolve_tokenizer(config.data.tokenizer, config.data.end_of_text)
        self.config = with_vocabulary(config, tokenizer.vocab_size)
        require_untouched_rates(self.config)
        self.grids = {v.name: self._grid(v) for v in self.variants}
        self.data = prepare(self.config, tokenizer)
        self.setting = setting_of(self.config, self.data)
        require_setting(self.records(), self.setting, f"{self.record_folder}")
        self._clock = Clock(self._planned())

    @property
    def record_folder(self) -> AnyPath:
        """The folder of records."""
        return self.workdir / RECORDS

    def about(self) -> dict[str, str]:
        """Say what the study is, as label -> text."""
        return about_of(self.setting, self.data.spec)

    def widths(self) -> str:
        """Return what is to be trained as a table: widths, counts, deviations from the budget."""
        rows = [
            [v.name, *matched_cells(model_facts(variant_config(self.config, v)), self.setting)]
            for v in self.variants
        ]
        return columns([HEADER, *rows])

    def records(self) -> list[Record]:
        """Read all records there are."""
        return read_records(self.record_folder)

    def run(self, after_each_seed: Callable[[], Any] = lambda: None) -> None:
        """Make every record that is not there yet; failed runs are tried again.

        All variants are tuned, then trained with the first seed, and so on: a study cut short
        has pairs. Raises Stopped when a signal stops a run.
        """
        tuned = {variant: self.tuned(variant) for variant in self.variants}
        for seed in self.seeds:
            for variant, rates in tuned.items():
                if rates is not None:
                    self.record_of(comparison_run(variant, seed, rates))
            after_each_seed()

    def tuned(self, variant: Variant) -> Rates | None:
        """Return the best rates of a variant; None if all that were tried failed."""
        grid = self.grids[variant.name]
        losses: dict[Rates, float] = {}
        while (rates := next_trial(grid, losses)) is not None:
            record = self.record_of(tuning_run(self.config.study, variant, rates))
            losses[rates] = float("inf") if record.failed else record.validation["loss"]
        try:
            return best(grid, losses)
        except UserError as error:
            self.say(f"{variant.name} is left out: {error}")
            return None

    def record_of(self, run: Run) -> Record:
        """Return the record of a run, making it unless it is there; its failure is recorded."""
        config = run_config(self.config, run)
        record = run.record(config, self.setting)
        there = {known.name: known for known in self.records()}.get(record.name)
        if there is not None and not there.failed and there.rates == record.rates:
            self._clock.skip(config.training.steps)
            return there
        self.say(self._clock.line(run.describe()))
        try:
            record = run.record(config, self.setting, **self._measured(run, config, record.folder))
        except Stopped:
            raise
        except Exception as error:
            if _is_of_folder(error):
                raise  # a full disk is no fault of the method, nor is another process
            reason = _reason(error)
            self.say(f"failed: {reason}")
            record = run.record(config, self.setting, failed=reason)
        write_record(self.record_folder, record)
        self._clock.finish(config.training.steps)
        self._clean(run, record)
        return record

    def _measured(self, run: Run, config: Config, folder: str) -> dict[str, Any]:
        workdir = self.workdir / "runs" / folder
        outcome = train(config, workdir, self.data if config.data == self.config.data else None)
        if outcome.result is None:
            raise Stopped(outcome.signal)
        measured = measured_of_result(outcome.result, workdir, config)
        if run.purpose == TUNING:
            return measured
        tokens = self.config.study.robustness_tokens
        return measured | measured_of_routing(workdir, config, tokens, self.say)

    def _clean(self, run: Run, record: Record) -> None:
        """Let go of compiled programs, and of the weights of a run whose record says all."""
        jax.clear_caches()
        gc.collect()
        if run.purpose == TUNING and not is_remote(self.workdir):
            shutil.rmtree(self.workdir / "runs" / record.folder, ignore_errors=True)

    def _grid(self, variant: Variant) -> Grid:
        """Return what is tried for a variant; raises UserError if it cannot be trained."""
        probe = comparison_run(variant, self.seeds[0], Rates(1e-3))
        config = run_config(self.config, probe)
        given = given_rates(self.config, variant)
        grid = grid_of(self.config.study, given, has_experts=bool(moe_layers(config.model)))
        check_trainable(config)
        return grid

    def _planned(self) -> list[int]:
        """Return the steps of every run to come, but for extensions of the grids."""
        study, steps = self.config.study, self.config.training.steps
        tuning = [study.tuning_steps or steps] * sum(grid.size for grid in self.grids.values())
        return tuning + [steps] * (len(self.seeds) * len(self.variants))


def _reason(error: Exception) -> str:
    if isinstance(error, DivergedError):
        return f"diverged: {error.fact}"
    return " ".join(str(error).split())[:300] or type(error).__name__


def _is_of_folder(error: BaseException) -> bool:
    """Say whether a file that cannot be had, or a run in use, is behind an error."""
    kinds = OSError, RunInUseError
    while not isinstance(error, kinds) and (deeper := error.__cause__ or error.__context__):
        error = deeper
    return isinstance(error, kinds)
