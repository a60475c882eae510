"""Every run: those that failed, and how long and on what the others ran."""

import json
from collections import Counter

from cartesian_moe_jax.study.comparison import Comparison, variant_order, why_unmeasured
from cartesian_moe_jax.study.record import Record
from cartesian_moe_jax.study.section import Section
from cartesian_moe_jax.study.sections.quality import rates_text
from cartesian_moe_jax.study.tables import NOTHING, bullets, code, number, plain, table

HEADER = (
    "purpose",
    "variant",
    "machine",
    "seed",
    "rate",
    "tokens, M",
    "minutes",
    "tokens per second",
)


def runs(study: Comparison) -> Section | None:
    """Return failures, disagreements, and a row for each measured run; None without records."""
    if not study.records:
        return None
    ordered = sorted(study.records, key=_order)
    rows = [_row(record) for record in ordered if not why_unmeasured(record)]
    notes = [*_rates_differ(study), *_machines_differ(study)]
    blocks = [_failures(ordered)]
    if notes:
        blocks.append(bullets(notes))
    elif study.runs:
        blocks.append("The compared runs agree on the machine, and seeds of a variant on rates.")
    if rows:
        blocks.append(table(HEADER, rows, words=3))
    return Section("Runs", blocks)


def _order(record: Record) -> tuple[object, ...]:
    return (
        record.purpose,
        variant_order(record.variant),
        record.seed,
        sorted(record.rates.items()),
    )


def _failures(records: list[Record]) -> str:
    failed = [(record, why) for record in records if (why := why_unmeasured(record))]
    if not failed:
        return "No run failed."
    header = ["failed run", "variant", "reason", "seed", "rate"]
    rows = [
        [
            record.purpose,
            code(record.variant),
            plain(why),
            str(record.seed),
            rates_text(record.rates),
        ]
        for record, why in failed
    ]
    return table(header, rows, words=3)


def _row(record: Record) -> list[str]:
    return [
        record.purpose,
        code(record.variant),
        plain(record.machine.get("device_kind", NOTHING)),
        str(record.seed),
        rates_text(record.rates),
        f"{record.tokens / 1e6:,.2f}",
        f"{record.training_seconds / 60:,.1f}",
        number(record.tokens_per_second, ",.0f"),
    ]


def _rates_differ(study: Comparison) -> list[str]:
    lines = []
    for variant, by_seed in study.runs.items():
        rates = {seed: rates_text(run.rates) for seed, run in by_seed.items()}
        if len(set(rates.values())) > 1:
            each = ", ".join(f"{value} in seed {seed}" for seed, value in rates.items())
            lines.append(f"Seeds of {code(variant)} differ in their rates: {each}.")
    return lines


def _machines_differ(study: Comparison) -> list[str]:
    compared = [run for by_seed in study.runs.values() for run in by_seed.values()]
    lines = []
    for field in sorted({field for run in compared for field in run.machine}):
        counts = Counter(
            json.dumps(run.machine.get(field, NOTHING), sort_keys=True) for run in compared
        )
        if len(counts) > 1:
            each = ", ".join(f"{code(value)} ({count} runs)" for value, count in counts.items())
            lines.append(f"The compared runs differ in {code(field)} of the machine: {each}.")
    return lines
