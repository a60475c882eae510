"""From a config and a target to the row of its layout: what the process that compiles does."""

import dataclasses
import os
import re
from collections.abc import Iterator, Sequence

import jax
from jax.sharding import Mesh

from cartesian_moe_jax.config import Config
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.models.depth import layer_kinds, segments
from cartesian_moe_jax.models.fitting_mesh import mesh_of
from cartesian_moe_jax.moe.dispatch import exchange_of
from cartesian_moe_jax.parallel.chips import Chip, chip_of
from cartesian_moe_jax.parallel.layouts import layout_of
from cartesian_moe_jax.parallel.targets import Target
from cartesian_moe_jax.platform import compiling_for
from cartesian_moe_jax.study.layouts.collectives import (
    SWITCH,
    collectives_of,
    summed,
)
from cartesian_moe_jax.study.layouts.links import places_of
from cartesian_moe_jax.study.layouts.program import read_program
from cartesian_moe_jax.study.layouts.roofline import step_times
from cartesian_moe_jax.study.layouts.row import Row
from cartesian_moe_jax.study.layouts.step import Step, abstract_step, compile_step, measure_step
from cartesian_moe_jax.study.layouts.traffic import moved_bytes
from cartesian_moe_jax.study.layouts.work import local_bytes, work_of
from cartesian_moe_jax.training.state import TrainState

EXCHANGE = re.compile(r"/(dispatch|combine)/")
"""Scopes (moe/routed.py) of the collectives that bring tokens to experts and back."""
REASON_LENGTH = 300
_TOO_BIG = re.compile(r"Used (\S+) of (\S+) hbm\. Exceeded hbm capacity by ([^\s.]+\.?\d*\w)")


def compare_case(config: Config, target: Target, *, run: bool = False) -> Row:
    """Compile the config's layout for the target; return its row, with the reason if it fails."""
    row = Row(config.parallel.layout)
    try:
        devices = target.devices()
        with compiling_for(target.platform or jax.default_backend(), devices[0]):
            for more in _stages(row, config, target, devices, run=run):
                row = more
    except Exception as error:  # whatever a compiler or a kernel raises is what we report
        return dataclasses.replace(row, reason=one_line(error))
    return row


def one_line(error: Exception) -> str:
    """Return an error's message as one line; a compiler's memory report by its numbers."""
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    message = kind + " ".join(str(error).split())
    if found := _TOO_BIG.search(message):
        return f"does not fit: the compiler needs {found[1]} of {found[2]}, {found[3]} too much"
    return message if len(message) <= REASON_LENGTH else message[: REASON_LENGTH - 3] + "..."


def _stages(
    row: Row, config: Config, target: Target, devices: Sequence[jax.Device], *, run: bool
) -> Iterator[Row]:
    """Give the row as it becomes known: what a layout takes, its program, its measured time."""
    if target.size not in (None, len(devices)):
        raise UserError(
            f"--target={target.name}: its compiler knows {len(devices)} devices by that name, "
            f"not {target.size}"
        )
    mesh = mesh_of(config, devices)
    chip = target.chip or chip_of(mesh.devices.ravel()[0])
    with jax.set_mesh(mesh):
        exchange = layout_of(config.parallel).exchange
        row = dataclasses.replace(row, exchange=exchange, mesh=dict(mesh.shape))
        yield row
        state = abstract_step(config, mesh)
        row = _with_state(row, config, state, mesh, chip)
        yield row
        step = compile_step(config, state, mesh)
        row = _with_program(row, config, step, mesh, chip)
        yield row
        if run:
            yield dataclasses.replace(row, step_seconds=measure_step(config, step, mesh))


def _with_state(row: Row, config: Config, state: TrainState, mesh: Mesh, chip: Chip | None) -> Row:
    work = work_of(config, state.parameters, mesh)
    return dataclasses.replace(
        row,
        parameter_bytes=sum(map(local_bytes, jax.tree.leaves(state.parameters))),
        optimizer_bytes=sum(map(local_bytes, jax.tree.leaves(state.optimizer))),
        memory_bytes=chip.memory_bytes if chip else _share_of_this_machine(mesh.size),
        flops=work.flops,
        memory_traffic_bytes=work.memory_bytes,
        least_exchange_bytes=work.exchange_bytes,
    )


def _with_program(row: Row, config: Config, step: Step, mesh: Mesh, chip: Chip | None) -> Row:
    memory = step.program.memory_analysis()
    program, most = read_program(step.program.as_text()), _most_repeats(config)
    links = chip.links if chip and chip.links else SWITCH
    found = collectives_of(program, mesh.shape, places_of(mesh, links), most, links)
    axis = exchange_of(layout_of(config.parallel)).axis
    exchanged = [c for c in found if axis in c.axes and EXCHANGE.search(c.op_name)]
    rated = chip is not None and chip.links is not None
    moved = moved_bytes(program, most)
    return dataclasses.replace(
        row,
        temporary_bytes=memory.temp_size_in_bytes,
        # What is donated is counted as an argument and as an output.
        total_bytes=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes,
        moved_bytes=moved,
        moved_seconds=moved / chip.memory_bandwidth if rated else None,
        collectives=summed(found),
        exchange_bytes=sum(c.near_bytes + c.far_bytes for c in exchanged),
        times=step_times(chip, row.flops, row.memory_traffic_bytes, found) if rated else None,
        compile_seconds=step.compile_seconds,
    )


def _most_repeats(config: Config) -> int:
    """Return how often a loop over layers repeats at most."""
    kinds = layer_kinds(config.model.num_layers, config.model.moe)
    return max(segment.repeats for segment in segments(kinds))


def _share_of_this_machine(devices: int) -> int:
    """Return the memory of each of the virtual devices that share this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // devices
