"""A compiled program as text (HLO), read as computations of instructions."""

import dataclasses
import re
from collections.abc import Iterator, Mapping

from cartesian_moe_jax.study.layouts.shapes import bytes_of

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_END = re.compile(r"^\}(, execution_thread=.*)?$")
"""Attributes of an instruction may begin a line with a brace too."""
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_PARENTHESIS = re.compile(r"[()]")
_CALLED = re.compile(r"(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_CALLED_LISTS = re.compile(r"(?:branch_computations|called_computations)=\{([^}]*)\}")


_LOOK_BACK = 4
"""Instructions without a name, one behind another, that are passed to find one with a name."""


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: ``name = shape opcode(operands), attributes``."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    """Names; of a constant, its value."""
    attributes: str

    def bytes(self) -> int | float:
        """Return the size of its result."""
        return bytes_of(self.shape)

    def attribute(self, name: str) -> str | None:
        """Return the word behind ``name=``."""
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.attributes)
        return found and found[1]

    def op_name(self) -> str:
        """Return which lines of the model it comes from, as jax names scopes; may be empty."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    def called(self) -> list[str]:
        """Return the computations that it runs once each; those of a while are its own matter."""
        if self.opcode == "while" or re.search(r"-(done|update)$", self.opcode):
            return []  # what has started is not run again when it is waited for
        listed = ",".join(_CALLED_LISTS.findall(self.attributes))
        return [*_CALLED.findall(self.attributes), *re.findall(r"[\w.\-]+", listed)]


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in order."""

    instructions: Mapping[str, Instruction]
    root: str

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions.values())

    def operand_bytes(self, instruction: Instruction) -> int | float:
        """Return the size of all that an instruction takes."""
        return sum(self.instructions[name].bytes() for name in instruction.operands)

    def bytes_put_in(self, instruction: Instruction) -> int | float:
        """Return the size of what a collective is given to send.

        Behind the rows of a ragged all-to-all come the buffer that it fills and the places of the
        chunks. No more than the smaller of rows and buffer can travel, on average.
        """
        if instruction.opcode.startswith("ragged-all-to-all"):
            return min(self.instructions[name].bytes() for name in instruction.operands[:2])
        return self.operand_bytes(instruction)

    def origin(self, instruction: Instruction) -> str:
        """Return an instruction's op_name; of one without, that of what it reads."""
        near = [instruction]
        for _ in range(_LOOK_BACK):
            if named := next(filter(None, (one.op_name() for one in near)), ""):
                return named
            operands = [name for one in near for name in one.operands]
            near = [self.instructions[name] for name in operands if name in self.instructions]
        return ""


@dataclasses.dataclass(frozen=True)
class Program:
    """Computations by name."""

    computations: Mapping[str, Computation]
    entry: str

    def __getitem__(self, name: str) -> Computation:
        return self.computations[name]


def read_program(text: str) -> Program:
    """Read what ``compiled.as_text()`` gives."""
    computations: dict[str, Computation] = {}
    entry, name, root, inside = "", None, "", {}
    for line in text.splitlines():
        if head := _HEAD.match(line):
            name, root, inside = head[2], "", {}
            entry = name if head[1] else entry
        elif _END.match(line) and name is not None:
            computations[name], name = Computation(inside, root), None
        elif name is not None and (start := _INSTRUCTION.match(line)):
            instruction = _instruction(start[2], line[start.end() :])
            inside[instruction.name] = instruction
            root = instruction.name if start[1] else root
    return Program(computations, entry)


def _instruction(name: str, text: str) -> Instruction:
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    opening = text.index("(", end)
    closing = _closing(text, opening)
    opcode, inside = text[end:opening].strip(), text[opening + 1 : closing]
    operands = [inside] if opcode == "constant" else re.findall(r"%([\w.\-]+)", inside)
    return Instruction(name, text[:end], opcode, tuple(operands), text[closing + 1 :])


def _closing(text: str, opening: int) -> int:
    """Return where the parenthesis at ``opening`` is closed."""
    depth = 0
    for found in _PARENTHESIS.finditer(text, opening):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return found.start()
    return len(text) - 1
