"""The verb ``compare_layouts``: compile a preset's step in every layout for a target, and say."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cartesian_moe_jax.config import Config
from cartesian_moe_jax.data.tokenizers import resolve_tokenizer
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.models.vocabulary import with_vocabulary
from cartesian_moe_jax.parallel.targets import Target, parse_target
from cartesian_moe_jax.paths import as_path, write_atomically
from cartesian_moe_jax.study.layouts.candidates import candidates
from cartesian_moe_jax.study.layouts.jobs import rows_of
from cartesian_moe_jax.study.layouts.row import Row
from cartesian_moe_jax.study.layouts.setups import setup_of
from cartesian_moe_jax.study.layouts.table import (
    collectives_table,
    comparison,
    mesh_text,
    number,
    verdict,
)


class Options(NamedTuple):
    """What the command line asks for."""

    target: str
    layouts: str = ""
    """Names joined by commas; empty: all."""
    exchanges: str = ""
    """Names joined by commas, tried in turn; empty: each layout's own."""
    search: bool = False
    measured: bool = False
    """Whether steps are run and timed."""
    json: str = ""
    """A file for the rows; empty: none."""
    picture: str = ""
    """An SVG file; empty: none."""
    python: str = ""
    """That compiles; empty: the target's usual one."""
    workers: int = 0
    """Processes that compile at once, each in some 4 GB; 0: two, or one on one core."""


def run_comparison(config: Config, name: str, options: Options) -> None:
    """Compare, and print; raises UserError if the target or a layout is not known."""
    target = parse_target(options.target)
    if options.measured and not target.runs:
        raise UserError(f"--run needs devices that are here: not --target={target.name}")
    setup = setup_of(target, options.python)
    config, note = _with_tokens(config)
    title = f"{name} on {target.name}"
    print(f"{title}: {_subject(config, target)}{note}", flush=True)
    configs = candidates(
        config,
        _names(options.layouts),
        _names(options.exchanges),
        _searched(target) if options.search else None,
        target.cells,
    )
    rows: list[Row] = []
    workers = options.workers or min(2, os.cpu_count() or 1)
    found = rows_of(configs, target, setup, run=options.measured, workers=workers)
    try:
        for row in _told(found, len(configs)):
            rows.append(row)
    finally:  # a comparison that is stopped says what it has
        if rows:
            _report(title, rows, options)


def _report(title: str, rows: Sequence[Row], options: Options) -> None:
    """Print the table, and write the files that are asked for."""
    print(comparison(rows))
    best = _best_of_each(rows)
    if any(row.collectives for row in best):
        print("\n" + collectives_table(best))
    print("\n" + verdict(rows))
    if options.json:
        records = {"title": title, "rows": [row.record() for row in sorted(rows, key=Row.order)]}
        write_atomically(as_path(options.json), json.dumps(records, indent=1) + "\n")
    if options.picture and any(not row.reason for row in rows):
        from cartesian_moe_jax.study.layouts.picture import draw_comparison

        write_atomically(as_path(options.picture), draw_comparison(title, rows))


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _searched(target: Target) -> int:
    """Return the number of devices whose meshes are searched."""
    if target.size is None:
        raise UserError(f"--search needs the number of devices: not --target={target.name}")
    return target.size


def _with_tokens(config: Config) -> tuple[Config, str]:
    """Return the config with a vocabulary, and what to say about it."""
    if config.model.vocab_size:
        return config, ""
    size = resolve_tokenizer("bytes", "").vocab_size
    return with_vocabulary(config, size), ", the vocabulary of bytes (the preset names none)"


def _subject(config: Config, target: Target) -> str:
    chip = target.chip
    parts = [f"{target.size or 'all'} devices"]
    if chip is not None:
        parts.append(
            f"each {number(chip.memory_bytes / 1e9)} GB and {chip.peak_flops / 1e12:,.0f} TFLOP/s"
        )
    training = config.training
    parts.append(f"a step of {training.batch_size:,} x {config.data.seq_len:,} tokens")
    if training.accumulate > 1:
        parts.append(f"in {training.accumulate} parts")
    return ", ".join([*parts, f"remat {config.model.remat}"])


def _told(rows: Iterator[Row], count: int) -> Iterator[Row]:
    """Tell of each row as it comes, since some take minutes."""
    for index, row in enumerate(rows):
        said = row.reason or f"compiled in {number(row.compile_seconds)} s"
        text = f"[{index + 1}/{count}] {row.layout} ({mesh_text(row.mesh)}): {said}"
        print(text[:160], file=sys.stderr, flush=True)
        yield row


def _best_of_each(rows: Sequence[Row]) -> list[Row]:
    best: dict[str, Row] = {}
    for row in sorted(rows, key=Row.order):
        best.setdefault(row.layout, row)
    return list(best.values())
