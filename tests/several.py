"""Several processes of an entry point on this machine, each with virtual devices of its own."""

import contextlib
import os
import re
import socket
import subprocess
import sys

from tests import processes

DEVICES = 8


def free_port():
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


def by_flags(index, count, port):
    """What tells a process its place: flags, and variables."""
    return [f"--coordinator=localhost:{port}", f"--processes={count}", f"--process={index}"], {}


def by_nothing(index, count, port):
    return [], {}


def by_variables(index, count, port):
    return [], {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": str(count),
        "JAX_PROCESS_ID": str(index),
    }


def by_slurm(index, count, port):
    return [], {
        "SLURM_JOB_ID": "1234",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_TASKS": str(count),
        "SLURM_STEP_TASKS_PER_NODE": str(count),
        "SLURM_PROCID": str(index),
        "SLURM_LOCALID": str(index),
        "JAX_COORDINATOR_PORT": str(port),
    }


def by_open_mpi(index, count, port):
    return [], {
        "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1,10.96.0.1:34911",
        "OMPI_COMM_WORLD_SIZE": str(count),
        "OMPI_COMM_WORLD_RANK": str(index),
        "OMPI_COMM_WORLD_LOCAL_SIZE": str(count),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(index),
        "JAX_COORDINATOR_PORT": str(port),
    }


def by_tpu_slices(index, count, port):
    """Two slices, each of half of the processes."""
    per_slice = count // 2
    return [], {
        "TPU_WORKER_HOSTNAMES": ",".join(["localhost"] * per_slice),
        "TPU_WORKER_ID": str(index % per_slice),
        "MEGASCALE_COORDINATOR_ADDRESS": "localhost:8080",
        "MEGASCALE_NUM_SLICES": "2",
        "MEGASCALE_SLICE_ID": str(index // per_slice),
        "JAX_COORDINATOR_PORT": str(port),
    }


def start(count, *command, told=by_flags, came=None, devices=DEVICES):
    """Start ``count`` processes (of them ``came`` alone) that share so many virtual devices."""
    port = free_port()
    started = []
    for index in range(count) if came is None else came:
        more, variables = told(index, count, port)
        own = "--xla_force_host_platform_device_count="
        xla = re.sub(rf"{own}\d+", f"{own}{devices // count}", os.environ["XLA_FLAGS"])
        process = subprocess.Popen(
            [sys.executable, *command, *more],
            cwd=processes.ROOT,
            env={**os.environ, **variables, "XLA_FLAGS": xla},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
    return started


def finish(started):
    """Wait for all; if one hangs, all are killed."""
    try:
        return [processes.finish(process) for process in started]
    finally:
        for process in started:
            with contextlib.suppress(OSError):
                process.kill()


def run(*arguments, **keywords):
    """Run processes to their end, which must be a good one."""
    ended = finish(start(*arguments, **keywords))
    assert [process.status for process in ended] == [0] * len(ended), [p.err for p in ended]
    return ended
