"""How often the body of a loop runs, where the program says it."""

import dataclasses
import math
import re

from cartesian_moe_jax.study.layouts.program import Computation, Instruction, Program

_SAME = ("copy", "bitcast", "convert", "reshape", "broadcast")


def trip_count(program: Program, within: Computation, loop: Instruction) -> int | None:
    """Return how often a ``while`` of the computation ``within`` repeats; None: not known.

    XLA writes it down for CPU and GPU. For TPU it does not: there it follows from a counter that
    starts at a constant, grows by a constant, and is compared with a constant.
    """
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(known[1])
    return _Counter(program, within, loop).trips()


@dataclasses.dataclass(frozen=True)
class _Counter:
    program: Program
    within: Computation
    loop: Instruction

    def trips(self) -> int | None:
        """Return the rounds of ``for (i = start; i < bound; i += step)``."""
        condition = self.program[self.loop.attribute("condition")]
        test = condition.instructions.get(condition.root)
        if test is None or test.opcode != "compare" or test.attribute("direction") != "LT":
            return None
        counter = _source(condition, test.operands[0])
        bound = self._constant(condition, test.operands[1])
        if counter.opcode != "get-tuple-element" or bound is None:
            return None
        index = int(counter.attribute("index"))
        start, step = self._start(index), self._step(index)
        if start is None or not step or step < 0:
            return None
        return max(0, math.ceil((bound - start) / step))

    def _step(self, index: int) -> int | None:
        body = self.program[self.loop.attribute("body")]
        state = body.instructions[body.root]
        if state.opcode != "tuple":
            return None
        added = _source(body, state.operands[index])
        if added.opcode != "add":
            return None
        steps = [self._constant(body, name) for name in added.operands]
        counters = [_source(body, name).attribute("index") == str(index) for name in added.operands]
        return next((s for s, c in zip(steps, reversed(counters), strict=True) if c), None)

    def _start(self, index: int) -> int | None:
        state = _source(self.within, self.loop.operands[0])
        if state.opcode != "tuple":
            return None
        return _value(_source(self.within, state.operands[index]))

    def _constant(self, computation: Computation, name: str) -> int | None:
        """Return a constant, or what the loop was given and hands on as it is."""
        source = _source(computation, name)
        if source.opcode != "get-tuple-element":
            return _value(source)
        index = int(source.attribute("index"))
        body = self.program[self.loop.attribute("body")]
        state = body.instructions[body.root]
        if state.opcode != "tuple":
            return None
        handed_on = _source(body, state.operands[index])
        unchanged = (handed_on.opcode, handed_on.attribute("index")) == (source.opcode, str(index))
        return self._start(index) if unchanged else None


def _source(computation: Computation, name: str) -> Instruction:
    """Return what a value is, behind copies of it."""
    found = computation.instructions[name]
    while found.opcode in _SAME and found.operands:
        found = computation.instructions[found.operands[0]]
    return found


def _value(instruction: Instruction) -> int | None:
    text = instruction.operands[0] if instruction.opcode == "constant" else ""
    return int(text) if re.fullmatch(r"-?\d+", text) else None
