"""The collectives of a compiled program: how many, of how many bytes, over which mesh axes."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

from cartesian_moe_jax.parallel.chips import Links
from cartesian_moe_jax.study.layouts.groups import Groups, axes_of, groups_of
from cartesian_moe_jax.study.layouts.links import Place, cells, near_share
from cartesian_moe_jax.study.layouts.loops import trip_count
from cartesian_moe_jax.study.layouts.program import Computation, Instruction, Program
from cartesian_moe_jax.study.layouts.slices import (
    axes_between_slices,
    kind_between_slices,
    slices_of,
)
from cartesian_moe_jax.study.layouts.wire import KINDS, Sent

SWITCH = Links(near=0.0, torus=0, far=0.0)


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program, or all of one kind over the same axes."""

    kind: str
    axes: tuple[str, ...]
    """Mesh axes whose devices exchange data."""
    count: int
    """How often one step runs it."""
    near_bytes: int | float
    """What one device sends in one step over links within its slice or host."""
    far_bytes: int | float
    """And over those between slices or hosts."""
    near_share: int | float = 1.0
    """Of the near links' bandwidth, what it can use: in a torus, the dimensions it extends over."""
    op_name: str = ""
    """Which lines of the model it comes from."""
    assumed: bool = False
    """Whether the count rests on an assumed number of rounds of some loop."""


def collectives_of(
    program: Program,
    mesh: Mapping[str, int],
    places: Sequence[Place],
    assumed_trips: int = 1,
    links: Links = SWITCH,
) -> list[Collective]:
    """Return every collective of a program over a mesh (axis -> size), in the program's order.

    ``places`` are those of the mesh's devices. ``assumed_trips`` is how often a loop repeats of
    which the program does not say it. Collectives over one device, which send nothing, are left
    out.
    """
    reader = _Reader(program, mesh, places, assumed_trips, links)
    return [found for found in reader.read(program.entry, 1, False) if found.axes]


def summed(collectives: Sequence[Collective]) -> list[Collective]:
    """Return one for each kind and axes, those that send most first."""
    totals: dict[tuple, Collective] = {}
    for one in collectives:
        key = (one.kind, one.axes)
        totals[key] = _plus(totals[key], one) if key in totals else one
    return sorted(totals.values(), key=lambda c: -(c.near_bytes + c.far_bytes))


def _plus(first: Collective, second: Collective) -> Collective:
    return Collective(
        first.kind,
        first.axes,
        first.count + second.count,
        first.near_bytes + second.near_bytes,
        first.far_bytes + second.far_bytes,
        min(first.near_share, second.near_share),
        assumed=first.assumed or second.assumed,
    )


class _Reader:
    def __init__(
        self,
        program: Program,
        mesh: Mapping[str, int],
        places: Sequence[Place],
        assumed_trips: int,
        links: Links,
    ):
        self.program, self.mesh, self.places = program, mesh, places
        self.assumed_trips, self.links = assumed_trips, links
        self.has_some = functools.cache(self._has_some)

    def read(self, name: str, times: int, assumed: bool) -> Iterator[Collective]:
        """Go through what a computation runs, ``times`` times."""
        computation = self.program[name]
        for instruction in computation:
            if instruction.opcode == "while" and self.has_some(instruction.attribute("body")):
                trips = trip_count(self.program, computation, instruction)
                rounds = self.assumed_trips if trips is None else trips
                body = instruction.attribute("body")
                yield from self.read(body, times * rounds, assumed or trips is None)
            elif kind := _kind(instruction):
                yield self._collective(kind, instruction, computation, times, assumed)
            elif kind := kind_between_slices(instruction):
                yield self._between_slices(kind, instruction, computation, times, assumed)
            else:
                origin = computation.origin(instruction)
                for called in filter(self.has_some, instruction.called()):
                    for found in self._called(instruction, called, times, assumed):
                        yield dataclasses.replace(found, op_name=found.op_name or origin)

    def _called(
        self, caller: Instruction, called: str, times: int, assumed: bool
    ) -> Iterator[Collective]:
        """Go through a called computation; a fusion that keeps a part of a sum has scattered it."""
        for found in self.read(called, times, assumed):
            if found.kind == "all-reduce" and caller.opcode == "fusion":
                inside = self.program[called]
                summed_bytes = sum(i.bytes() for i in inside if _kind(i) == "all-reduce")
                if caller.bytes() < summed_bytes:
                    halves = {"near_bytes": found.near_bytes / 2, "far_bytes": found.far_bytes / 2}
                    found = dataclasses.replace(found, kind="reduce-scatter", **halves)
            yield found

    def _collective(
        self,
        kind: str,
        instruction: Instruction,
        computation: Computation,
        times: int,
        assumed: bool,
    ) -> Collective:
        groups = groups_of(instruction.attributes, len(self.places))
        sent = self._sent(kind, computation.bytes_put_in(instruction), groups).times(times)
        share = near_share(groups, self.places, self.links)
        axes, name = axes_of(groups, self.mesh), computation.origin(instruction)
        return Collective(kind, axes, times, sent.near, sent.far, share, name, assumed)

    def _between_slices(
        self,
        kind: str,
        instruction: Instruction,
        computation: Computation,
        times: int,
        assumed: bool,
    ) -> Collective:
        given = computation.instructions[instruction.operands[0]].bytes()
        far = KINDS[kind](given, 1, slices_of(instruction, self.places)).far * times
        axes = axes_between_slices(self.places, self.mesh)
        origin = computation.origin(instruction)
        return Collective(kind, axes, times, 0.0, far, 1.0, origin, assumed)

    def _sent(self, kind: str, given: int | float, groups: Groups) -> Sent:
        """Return the most that any device sends."""
        of_groups = set()
        for members in groups:
            spread = cells(members, self.places)
            of_groups.add(KINDS[kind](given, len(members) / spread, spread))
        return max(of_groups, key=lambda sent: (sent.far, sent.near))

    def _has_some(self, name: str) -> bool:
        for instruction in self.program[name]:
            inside = instruction.called()
            if instruction.opcode == "while":
                inside = [instruction.attribute("body")]
            sends = _kind(instruction) or kind_between_slices(instruction)
            if sends or any(map(self.has_some, inside)):
                return True
        return False


def _kind(instruction: Instruction) -> str | None:
    """Return the kind of a collective; of one in two halves, the start stands for both."""
    kind = instruction.opcode.removesuffix("-start")
    return kind if kind in KINDS else None
