"""Compiles a step with an exchange for TPU, and prints what is computed while rows travel.

python -m tests.parallel.tpu_overlap: for every all-to-all of the forward and backward pass, the
number of operations of the shared expert that are scheduled between its start and its end.
"""

import json
import re

import jax
from jax.experimental import topologies

from cartesian_moe_jax import config as schema
from cartesian_moe_jax.models.fitting_mesh import mesh_of
from cartesian_moe_jax.platform import compiling_for
from cartesian_moe_jax.study.layouts.step import abstract_step, compile_step
from configs import paper


def large():
    """Four layers of the 7b preset, whose experts are split over eight chips."""
    preset = paper.get_config("7b,cartesian")
    preset.model.num_layers, preset.model.remat = 4, "full"
    preset.training.batch_size = 128
    preset.parallel.layout, preset.parallel.exchange = "expert_fsdp", "all_to_all"
    return schema.read(preset.to_dict())


def meanwhile(program):
    """List pairs: what an all-to-all is for, and the shared expert's operations during it."""
    started, found = {}, []
    for number, line in enumerate(lines := program.splitlines()):
        name = re.match(r"\s*(?:ROOT )?%?(\S+) = ", line)
        if name and " all-to-all-start(" in line:
            started[name[1]] = number
        elif done := re.search(r" all-to-all-done\(.*?%?([\w.\-]+)\)", line):
            first = started[done[1]]
            during = [other for other in lines[first + 1 : number] if "fusion(" in other]
            purpose = re.search(r"(dispatch|combine)/all_to_all", lines[first])[1]
            found.append((purpose, sum("shared_expert/" in other for other in during)))
    return found


def main():
    config = large()
    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5p:2x2x2")
    with compiling_for("tpu"):
        mesh = mesh_of(config, topology.devices)
        with jax.set_mesh(mesh):
            step = compile_step(config, abstract_step(config, mesh), mesh)
    print(json.dumps(meanwhile(step.program.as_text())))


if __name__ == "__main__":
    main()
