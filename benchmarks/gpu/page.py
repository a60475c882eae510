"""The page and the short table, from the JSON files of a folder: needs no jax."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.gpu.conditions import WITHOUT, changed
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.record import read
from cartesian_moe_jax.columns import columns

Measurement = Mapping[str, Any]
Rows = list[Sequence[str]]

FORMATS: Mapping[str, Callable[[Any], str]] = MappingProxyType(
    {
        "ms": "{:.3f}".format,
        "tflops": "{:.1f}".format,
        "share": "{:.1%}".format,
        "twin": "{:.2f}".format,
        "ours": "{:.2f}".format,
        "bytes": lambda value: f"{value / 1e9:.2f} GB",
        "seconds": "{:.1f}".format,
        "series": "{:.0f}".format,
        "s": "{:,.0f}".format,
        "whole": "{:.1e}".format,
        "worst": "{:.1e}".format,
        "tolerance": "{:.0e}".format,
    }
)
"""How a number is written, by the last word of its name."""

LEG = ("leg", "products", "rows", "experts", "inputs", "outputs")
LAYER = ("what", "tokens", "top_k", "experts", "d_model", "d_expert", "by")
COLUMNS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "trial": (*LEG, "by", "ms", "tflops"),
        "trial_in_turns": (*LEG, "by", "ms", "tflops"),
        "parity": ("what", "by", "groups", "cases", "whole", "worst", "tolerance", "result"),
        "peaks": ("what", "size", "ms_per_series", "ms", "tflops", "gigabytes_per_s"),
        "legs": (
            *LEG,
            *("fastest", "ms", "tflops", "peak_share", "bound_tflops", "ours_ms"),
            *("dense_ms", "dense_tflops", "ragged_ms", "ragged_tflops"),
        ),
        "layer": (*LAYER, "ms", "tflops", "peak_share", "to_twin", "temporary_bytes", "none"),
        "step": (
            *("what", "batch", "seq_len", "ms", "tokens_per_s", "tflops", "peak_share"),
            *("temporary_bytes", "compile_seconds"),
        ),
        "pytorch": (*LAYER, "ms", "tflops", "peak_share", "to_ours", "temporary_bytes", "none"),
        "decode": ("what", "window", "texts", "ms", "tokens_per_s", "to_twin", "none"),
    }
)
"""Of the table of each part; columns that no measurement has are left out."""

MEANINGS = """\
Times are medians of series of runs. `tflops` counts what the computation needs, without
recomputation; `peak_share` is that by the rate of the square product above, in series as long;
`bound_tflops` what this rate allows, or memory if that is less: at the rate of the copy, with all
operands and results of a leg moved once (what stays in a cache is faster). `ours_ms` is our own
fastest kernel where `fastest` may be another's; `dense` is the same product with one weight for all
rows, `ragged` XLA's ragged_dot. `to_twin` is time / time of the dense twin, `to_ours` time / ours.
Errors are relative to float64, of the whole array and of the row, expert or head that is off most.
"""


def page(folder: Path) -> str:
    """All that is known, as Markdown."""
    run = read(folder / "run.json")
    gpu = run.get("machine", {})
    head = [
        f"# One GPU: {gpu.get('GPU, driver, memory', 'unknown')}\n",
        f"{run.get('date', '')}, `{run.get('command', '')}`\n",
        ", ".join(f"{name} {what}" for name, what in gpu.items()) + "\n",
        f"```\n{summary(folder)}\n```\n",
        MEANINGS,
    ]
    return "\n".join([*head, *(_section(folder, name) for name in PARTS)])


def _section(folder: Path, name: str) -> str:
    found, part = shown(folder, name), _run_of(folder, name)
    took = f", {part['seconds']:.0f} s" if "seconds" in part else ""
    lines = [f"## {name}: {PARTS[name].about}\n", f"{part['ended']}{took}\n"]
    if found.get("rehearsal"):
        lines.append("A rehearsal on a CPU at tiny sizes: the times say nothing.\n")
    if found.get("without"):
        lines.append(f"Without {found['without']} ({WITHOUT}).\n")
    if rows := table(name, found.get("measurements", [])):
        lines.append(f"```\n{columns(rows)}\n```\n")
    lines += [f"* {note}" for note in found.get("notes", [])]
    return "\n".join(lines) + "\n"


def shown(folder: Path, name: str) -> dict[str, Any]:
    """What a part has measured; not what stands there from a run under other conditions."""
    found, run = read(folder / f"{name}.json"), read(folder / "run.json")
    if not (found and run):
        return found
    of_run = {"device": run["device"]} if "device" in run else {}
    other = changed(found, run.get("conditions", {}) | of_run)
    if name in run.get("parts", {}) and not other:
        return found
    others = f", with other {' and '.join(other)}" if other else ""
    return {"notes": [f"{name}.json is not shown, since it is of another run{others}"]}


def _run_of(folder: Path, name: str) -> dict[str, Any]:
    return read(folder / "run.json").get("parts", {}).get(name, {"ended": "not run"})


def table(name: str, measurements: Sequence[Measurement]) -> Rows:
    """The rows of a part, under their header; none where nothing was measured."""
    if name == "parity":
        measurements = worst_of(measurements)
    names = [c for c in COLUMNS[name] if any(c in m for m in measurements)]
    if not names:
        return []
    header = [column.replace("_", " ") for column in names]
    return [header, *([_cell(m, column) for column in names] for m in measurements)]


def _cell(measurement: Measurement, name: str) -> str:
    value = measurement.get(name, measurement.get(name.replace("_ms", "_none"), ""))
    written = FORMATS.get(name.split("_")[-1], str)
    return written(value) if isinstance(value, int | float) else str(value)


def worst_of(measurements: Sequence[Measurement]) -> list[Measurement]:
    """One line for all blocks of a kernel: the worst of them, or the first that failed."""
    groups: dict[tuple[Any, ...], list[Measurement]] = {}
    for m in measurements:
        kernel = m["by"].split()[0]
        key = (m["what"], m.get("dtype"), kernel, m.get("groups"), m["result"])
        groups.setdefault(key, []).append(m)
    return [_line(key, each) for key, each in groups.items()]


def _line(key: tuple[Any, ...], each: Sequence[Measurement]) -> Measurement:
    what, dtype, kernel, groups, result = key
    with_error = [m for m in each if "worst" in m]
    worst = max(with_error or each, key=lambda m: float(m.get("worst", 0)))
    by = kernel if result == "PASS" else worst["by"]
    reason = f": {worst['reason']}" if "reason" in worst else ""
    shown = {name: worst[name] for name in ("whole", "worst", "tolerance") if name in worst}
    return {
        **{"what": f"{what}, {dtype}", "by": by, "cases": len(each), "result": result + reason},
        **({"groups": groups} if groups else {}),
        **shown,
    }


def summary(folder: Path) -> str:
    """The short table: what to remember of each part."""
    return "\n".join(f"{name:8} {line}" for name in PARTS for line in _short(folder, name))


def _short(folder: Path, name: str) -> Iterator[str]:
    found, ended = shown(folder, name), _run_of(folder, name)["ended"]
    lines = SHORT[name](found.get("measurements", []))
    yield from lines
    if ended != "done":
        yield ended
    elif not lines:
        yield f"nothing measured: {' '.join(found.get('notes', [])[:1])}"


def _is_done(folder: Path, name: str) -> bool:
    return _run_of(folder, name)["ended"] == "done"


def _short_trial(found: Sequence[Measurement]) -> list[str]:
    right = sum(m["by"].startswith("hopper") for m in found)
    return [f"{right} blocks of the Hopper kernels are right"] if right else []


def _short_parity(found: Sequence[Measurement]) -> list[str]:
    results = [m["result"] for m in found]
    if not results:
        return []
    failed = [m for m in worst_of(found) if m["result"].startswith("FAIL")]
    lines = [f"{results.count('PASS')} PASS, {results.count('FAIL')} FAIL, of {len(results)}"]
    return lines + [f"FAIL {m['what']} by {m['by']}, {m.get('groups', '')}" for m in failed]


def _short_peaks(found: Sequence[Measurement]) -> list[str]:
    units = {"matmul": ("tflops", "TFLOP/s"), "copy": ("gigabytes_per_s", "GB/s")}
    return [
        f"{m['what']} {m[units[m['what']][0]]:,.1f} {units[m['what']][1]}, {m['size']},"
        f" in series of {m['ms_per_series']:.0f} ms"
        for m in found
    ]


def _short_legs(found: Sequence[Measurement]) -> list[str]:
    timed = [m for m in found if "ms" in m]
    lines = []
    for leg in dict.fromkeys(m["leg"] for m in timed):
        rates = sorted(m["tflops"] for m in timed if m["leg"] == leg)
        of_dense = [m["tflops"] / m["dense_tflops"] for m in timed if _has_dense(m, leg)]
        beside = f", {min(of_dense):.0%} to {max(of_dense):.0%} of dense" if of_dense else ""
        lines.append(
            f"{leg}: {rates[0]:.1f} to {rates[-1]:.1f} TFLOP/s at {len(rates)} shapes{beside}"
        )
    return lines


def _has_dense(measurement: Measurement, leg: str) -> bool:
    return measurement["leg"] == leg and "dense_tflops" in measurement


def _short_layers(found: Sequence[Measurement]) -> list[str]:
    return [
        " ".join(
            [
                f"{m['what']} {m['tokens']} x {m['d_model']} x {m['d_expert']}, E={m['experts']}:",
                f"{m['by']} {m['ms']:.3f} ms, {m['tflops']:.1f} TFLOP/s",
                *_ratios(m),
            ]
        )
        for m in found
        if "ms" in m
    ]


def _ratios(measurement: Measurement) -> Iterator[str]:
    for name, words in {"peak_share": "{:.0%} of peak", "to_twin": "{:.2f} x the twin"}.items():
        if name in measurement:
            yield words.format(measurement[name])


def _short_steps(found: Sequence[Measurement]) -> list[str]:
    return [
        " ".join(
            [
                f"{m['what']}, {m.get('batch', m.get('texts'))}"
                f" x {m.get('seq_len', m.get('window'))}:",
                f"{m['ms']:.2f} ms, {m['tokens_per_s']:,.0f} tokens/s",
                *_ratios(m),
            ]
        )
        for m in found
        if "ms" in m
    ]


SHORT: Mapping[str, Callable[[Sequence[Measurement]], list[str]]] = MappingProxyType(
    {
        "trial": _short_trial,
        "trial_in_turns": _short_trial,
        "parity": _short_parity,
        "peaks": _short_peaks,
        "legs": _short_legs,
        "layer": _short_layers,
        "step": _short_steps,
        "pytorch": _short_layers,
        "decode": _short_steps,
    }
)


def anything_wrong(folder: Path, names: Iterable[str]) -> bool:
    """Whether a part has not ended well, or a kernel computes what is wrong."""
    parity = shown(folder, "parity").get("measurements", [])
    return any(m["result"] == "FAIL" for m in parity) or not all(
        _is_done(folder, name) for name in names
    )
