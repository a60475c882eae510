"""Which part of the model the time of a compiled program goes to.

A trace has the time of every operation that the compiler made; the program's text says for each
of them the named scopes that it came from. Operations within a loop count for their own scope and
not for the loop's.
"""

import re
import statistics
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

SCOPES = (
    "embedding",
    "norm",
    "attention",
    "feed_forward",
    "router",
    "dispatch",
    "experts",
    "combine",
    "shared_expert",
    "head",
    "optimizer",
)
"""The parts, as the model's ``named_scope``s call them; a part within another counts for that."""
OTHER = "other"

_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = ")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_OP_NAME = re.compile(r'metadata=\{[^}]*op_name="([^"]*)"')
_CALLS = re.compile(r"\b(?:calls|to_apply)=%?([\w.\-]+)")


class Span(NamedTuple):
    """An operation in a trace, in nanoseconds."""

    name: str
    start: float
    duration: float


def part_of(op_name: str) -> str:
    """Return the part that an operation's scopes name, the outermost of several.

    >>> part_of("jit(step)/transpose(jvp(while))/body/shared_expert/feed_forward/dot_general")
    'shared_expert'
    """
    return next((word for word in re.findall(r"\w+", op_name) if word in SCOPES), OTHER)


def parts_of_program(text: str) -> dict[str, str]:
    """Return the part of every instruction of a compiled program, given as text.

    A fusion without scopes of its own has those of most instructions in the computation it calls.
    """
    own: dict[str, str] = {}
    within: dict[str, Counter[str]] = defaultdict(Counter)
    calls: dict[str, str] = {}
    computation = ""
    for line in text.splitlines():
        if begins := _COMPUTATION.match(line):
            computation = begins[1]
        elif instruction := _INSTRUCTION.match(line):
            name, op_name = instruction[1], _OP_NAME.search(line)
            own[name] = part_of(op_name[1]) if op_name else OTHER
            within[computation][own[name]] += own[name] != OTHER
            if called := _CALLS.search(line):
                calls[name] = called[1]
    for name, called in calls.items():
        if own[name] == OTHER and within[called].total():
            own[name] = within[called].most_common(1)[0][0]
    return own


def self_times(spans: Iterable[Span]) -> dict[str, list[float]]:
    """Return by name the times of the spans of one thread, each less that of spans within it."""
    times: dict[str, list[float]] = defaultdict(list)
    open_spans: list[Span] = []
    for span in sorted(spans, key=lambda s: (s.start, -s.duration)):
        while open_spans and span.start >= open_spans[-1].start + open_spans[-1].duration:
            open_spans.pop()
        if open_spans:
            times[open_spans[-1].name][-1] -= span.duration
        times[span.name].append(span.duration)
        open_spans.append(span)
    return times


def traced_operations(folder: Path, program: str) -> Sequence[Sequence[Span]]:
    """Return the operations of a program in the trace below ``folder``, thread by thread."""
    threads = []
    for file in folder.glob("plugins/profile/*/*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            for line in plane.lines:
                facts = [(event, dict(event.stats)) for event in line.events]
                threads.append(
                    [
                        Span(stats["hlo_op"], event.start_ns, event.duration_ns)
                        for event, stats in facts
                        if stats.get("hlo_module") == program and "hlo_op" in stats
                    ]
                )
    return threads


def breakdown(compiled: Any, run: Callable[[], Any], times: int) -> Mapping[str, float]:
    """Return the share of each part in the time of ``compiled``, which ``run`` runs once.

    Of every operation the median counts: a thread that has to wait for a core, as one does now and
    then where cores are shared, waits for as long as hundreds of operations take.
    """
    text = compiled.as_text()
    program = re.match(r"HloModule ([\w.\-]+)", text)[1]
    parts = parts_of_program(text)
    seen: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(times):
                jax.block_until_ready(run())
        for spans in traced_operations(Path(folder), program):
            for name, nanoseconds in self_times(spans).items():
                seen[name] += nanoseconds
    totals: Counter[str] = Counter()
    for name, nanoseconds in seen.items():
        totals[parts.get(name, OTHER)] += statistics.median(nanoseconds) * len(nanoseconds)
    whole = sum(totals.values())
    return {part: totals[part] / whole for part in (*SCOPES, OTHER) if totals[part]}
