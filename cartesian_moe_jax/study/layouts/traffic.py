"""What the kernels of a compiled program read from and write to a device's memory."""

import dataclasses
import re
from collections.abc import Iterator

from cartesian_moe_jax.study.layouts.loops import trip_count
from cartesian_moe_jax.study.layouts.program import Computation, Instruction, Program
from cartesian_moe_jax.study.layouts.shapes import bytes_of

_NOTHING_MOVES = frozenset(
    {"parameter", "constant", "iota", "tuple", "get-tuple-element", "bitcast", "reshape"}
    | {"partition-id", "replica-id", "after-all", "add-dependency", "opt-barrier"}
)
_RUNS_OTHERS = frozenset({"call", "conditional", "async-start"})
_ON_CHIP = re.compile(r"\w+\[[\d,<=]*\]\{[^}]*S\([1-9]\d*\)[^}]*\}")
"""An array that lies elsewhere: in a TPU's vector memory, in the host's."""
_ARRAY = re.compile(r"\w+\[[\d,<=]*\](?:\{[^}]*\})?")
_PICKS = frozenset({"dynamic-slice", "slice", "gather"})
_NAMES_ONE = frozenset({"bitcast", "reshape"})


def moved_bytes(program: Program, assumed_trips: int = 1) -> int | float:
    """Return the bytes that one run of a program moves on one device.

    Every kernel reads its operands and writes its results once: of what it slices or gathers the
    parts that it takes, of what it updates in place the part that it changes. ``assumed_trips`` is
    how often a loop repeats of which the program does not say it.
    """
    return _Reader(program, assumed_trips).total(program.entry)


def _bytes(shape: str) -> int | float:
    return bytes_of(_ON_CHIP.sub("", shape))


@dataclasses.dataclass(frozen=True)
class _Reader:
    program: Program
    assumed_trips: int

    def total(self, name: str) -> int | float:
        within = self.program[name]
        return sum(self._moved(within, instruction) for instruction in within)

    def _moved(self, within: Computation, one: Instruction) -> int | float:
        if one.opcode in _NOTHING_MOVES or re.search(r"-(done|update)$", one.opcode):
            return 0
        if one.opcode == "while":
            trips = trip_count(self.program, within, one)
            return (trips or self.assumed_trips) * self.total(one.attribute("body"))
        if one.opcode in _RUNS_OTHERS:
            return sum(map(self.total, one.called()))
        if one.opcode == "fusion":
            return _of_fusion(self.program[one.attribute("calls")], one)
        return _of_kernel(within, one)


def _of_kernel(within: Computation, one: Instruction) -> int | float:
    operands = [_bytes(within.instructions[name].shape) for name in one.operands]
    if one.opcode == "slice-start":
        return _of_started_slice(one, in_memory=operands[0] > 0)
    if one.opcode.endswith("-start"):  # its result names the operand too
        return operands[0] + _bytes(_ARRAY.findall(one.shape)[0])
    if one.opcode in _PICKS:
        return 2 * _bytes(one.shape)
    if one.opcode == "dynamic-update-slice":
        return 2 * operands[1]
    return sum(operands) + _bytes(one.shape)


def _of_started_slice(one: Instruction, in_memory: bool) -> int | float:
    """Of its result the first array is the operand, and the second what is taken of it."""
    taken = _ARRAY.findall(one.shape)[1]
    return bytes_of(taken) * in_memory + _bytes(taken)


def _of_fusion(inside: Computation, fusion: Instruction) -> int | float:
    """Add up what a fusion takes of each parameter, and what it writes."""
    read, in_place = 0, 0
    for parameter in (one for one in inside if one.opcode == "parameter"):
        uses = list(_uses(inside, parameter.name))
        if uses and all(use.opcode in _PICKS and first for use, first in uses):
            read += sum(_bytes(use.shape) for use, _ in uses)
        elif uses and all(use.opcode == "dynamic-update-slice" and first for use, first in uses):
            in_place += _bytes(parameter.shape)
        else:
            read += _bytes(parameter.shape)
    changed = sum(
        _bytes(inside.instructions[one.operands[1]].shape)
        for one in inside
        if in_place and one.opcode == "dynamic-update-slice"
    )
    return read + max(0, _bytes(fusion.shape) - in_place) + changed


def _uses(inside: Computation, name: str) -> Iterator[tuple[Instruction, bool]]:
    """Give who uses a value, under other names too, and whether as the first operand alone."""
    for one in inside:
        if name not in one.operands:
            continue
        if one.opcode in _NAMES_ONE:
            yield from _uses(inside, one.name)
        else:
            yield one, name not in one.operands[1:]
