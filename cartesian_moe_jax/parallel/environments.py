"""Who starts processes, as data: what each starter tells a process of its place among the others.

Nothing here imports jax: what is wrong shall be said before that takes its second.
"""

import dataclasses
import glob
import importlib.util
import re
from collections.abc import Callable, Mapping

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.parallel.tpu_metadata import metadata, tpu_environment

Environ = Mapping[str, str]

TPU_PORT = 8482
"""Free on TPU hosts: what jax takes there too."""
FIRST_PORT, PORTS = 61440, 4096
"""Of a job whose number chooses one."""


@dataclasses.dataclass(frozen=True)
class Place:
    """A process's place among those of a run; None: not told."""

    coordinator: str | None = None
    """HOST:PORT, where process 0 awaits the others."""
    count: int | None = None
    """Processes of the run."""
    index: int | None = None
    """Of this process, from 0."""
    local_device: int | None = None
    """The one accelerator of this host that is its own; None: all that it sees."""

    def over(self, other: "Place") -> "Place":
        """Return ``other`` with what is told here in place of its own."""
        told = {k: v for k, v in dataclasses.asdict(self).items() if v is not None}
        return dataclasses.replace(other, **told)


@dataclasses.dataclass(frozen=True)
class Environment:
    """One way to start processes."""

    recognised: Callable[[Environ], bool]
    place: Callable[[Environ], Place]
    """Raises UserError that names the variable which is missing or wrong."""


def _variables(environ: Environ) -> Place:
    return Place(
        environ.get("JAX_COORDINATOR_ADDRESS") or None,
        _number(environ, "JAX_NUM_PROCESSES", at_least=1, needed=False),
        _number(environ, "JAX_PROCESS_ID", needed=False),
    )


def _open_mpi(environ: Environ) -> Place:
    # Open MPI 5 does not say where it was started: JAX_COORDINATOR_ADDRESS must.
    start = re.match(
        r"(\d+)\..*?(?:tcp://([^,:]+)|tcp6://(\[[^,\]]+))", environ.get("OMPI_MCA_orte_hnp_uri", "")
    )
    coordinator = None
    if start:
        host = start[2] or f"{start[3]}]"
        # Numbers of jobs are multiples of 4096.
        coordinator = f"{host}:{_port(environ, int(start[1]) // 4096)}"
    shared = (_number(environ, "OMPI_COMM_WORLD_LOCAL_SIZE", needed=False) or 1) > 1
    return Place(
        coordinator,
        _number(environ, "OMPI_COMM_WORLD_SIZE", at_least=1),
        _number(environ, "OMPI_COMM_WORLD_RANK"),
        _own_device(environ, "OMPI_COMM_WORLD_LOCAL_RANK") if shared else None,
    )


def _slurm(environ: Environ) -> Place:
    """Read what srun says to the tasks of a step; a batch script alone is not one of them."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", _text(environ, "SLURM_STEP_NODELIST"))
    if not first:
        raise UserError(f"SLURM_STEP_NODELIST={environ['SLURM_STEP_NODELIST']!r} names no node")
    # node[003-017,20]-x begins with node003-x.
    host = re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0])
    tasks = re.match(r"\d+", environ.get("SLURM_STEP_TASKS_PER_NODE", ""))  # as in 8(x2),4
    shared = tasks is not None and int(tasks[0]) > 1
    return Place(
        f"{host}:{_port(environ, _number(environ, 'SLURM_JOB_ID'))}",
        _number(environ, "SLURM_STEP_NUM_TASKS", at_least=1),
        _number(environ, "SLURM_PROCID"),
        _own_device(environ, "SLURM_LOCALID") if shared else None,
    )


def _tpu_variables(environ: Environ) -> Place:
    """Read what Kubernetes says to a TPU host; of several slices, the MEGASCALE variables too."""
    name = _hosts_variable(environ)
    hosts = [host for host in environ[name].split(",") if host]
    if not hosts:
        raise UserError(f"{name}={environ[name]!r} names no host")
    alone = len(hosts) == 1 and not environ.get("MEGASCALE_NUM_SLICES")
    worker = 0 if alone else _number(environ, "TPU_WORKER_ID", below=len(hosts))
    return _among_slices(environ, environ, hosts, worker)


def _tpu_metadata(environ: Environ) -> Place:
    """Ask the metadata server of a Cloud TPU VM."""
    # NAME:ID:IP of each host, or its name alone.
    hosts = [
        entry.split(":")[2] if entry.count(":") == 2 else entry
        for entry in metadata(environ, "worker-network-endpoints").split(",")
    ]
    told = {"agent-worker-number": metadata(environ, "agent-worker-number")}
    worker = _number(told, "agent-worker-number", below=len(hosts))
    return _among_slices(environ, tpu_environment(environ), hosts, worker)


def _among_slices(environ: Environ, told: Environ, hosts: list[str], worker: int) -> Place:
    """Return the place of a host of a slice: slices come one after the other."""
    slices = _number(told, "MEGASCALE_NUM_SLICES", at_least=1, needed=False) or 1
    number, host = 0, hosts[0]
    if slices > 1:
        number = _number(told, "MEGASCALE_SLICE_ID", below=slices)
        host = _text(told, "MEGASCALE_COORDINATOR_ADDRESS")
    port = environ.get("JAX_COORDINATOR_PORT") or TPU_PORT
    return Place(f"{host.split(':')[0]}:{port}", slices * len(hosts), number * len(hosts) + worker)


ENVIRONMENTS: Mapping[str, Environment] = {
    # Before SLURM: within a job of SLURM, mpirun's processes have the variables of both.
    "Open MPI": Environment(lambda e: "OMPI_COMM_WORLD_SIZE" in e, _open_mpi),
    "SLURM": Environment(lambda e: "SLURM_STEP_NODELIST" in e, _slurm),
    "TPU hosts told by variables": Environment(lambda e: bool(_hosts_variable(e)), _tpu_variables),
    "Cloud TPU VM": Environment(lambda e: _is_tpu_vm(e), _tpu_metadata),
}
"""The first that is recognised counts. Flags, and JAX_ variables after them, go before it."""


def find_place(given: Place, environ: Environ) -> Place | None:
    """Return this process's place: as given, else as variables say; None: it is the only one.

    Raises UserError where a part is missing or wrong.
    """
    given = given.over(_variables(environ))
    if given == Place(count=1):
        return None
    found = next((e for e in ENVIRONMENTS.values() if e.recognised(environ)), None)
    if given.count is None and found is None and given == Place():
        return None
    complete = None not in (given.coordinator, given.count, given.index)
    place = given if complete or not found else given.over(found.place(environ))
    if place.count == 1 and not place.index:
        return None
    _check(place)
    return place


def _check(place: Place) -> None:
    parts = {
        "--coordinator=HOST:PORT (or JAX_COORDINATOR_ADDRESS)": place.coordinator,
        "--processes=N (or JAX_NUM_PROCESSES)": place.count,
        "--process=I (or JAX_PROCESS_ID)": place.index,
    }
    missing = [name for name, value in parts.items() if value is None]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} missing: a run of several processes needs all three"
        )
    if not 0 <= place.index < place.count:
        raise UserError(
            f"--process={place.index} is not allowed: 0 to --processes - 1 = {place.count - 1}"
        )
    host, _, port = place.coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(
            f"--coordinator={place.coordinator!r} is not allowed: HOST:PORT, as in 10.0.0.2:9876"
        )


def _text(environ: Environ, name: str) -> str:
    if not environ.get(name):
        raise UserError(f"{name} is missing, beside other variables of whoever starts processes")
    return environ[name]


def _number(
    environ: Environ, name: str, *, at_least: int = 0, below: int = 2**31, needed: bool = True
) -> int | None:
    if not needed and not environ.get(name):
        return None
    text = _text(environ, name)
    if not text.isdecimal() or not at_least <= int(text) < below:
        allowed = f"{at_least} to {below - 1}" if below < 2**31 else f"at least {at_least}"
        raise UserError(f"{name}={text!r} is not allowed: a whole number, {allowed}")
    return int(text)


def _port(environ: Environ, job: int) -> str:
    """Return a port that all processes of a job agree on, and other jobs hardly take."""
    return environ.get("JAX_COORDINATOR_PORT") or str(FIRST_PORT + job % PORTS)


def _own_device(environ: Environ, name: str) -> int | None:
    """Return which accelerator of a shared host is this process's; None: it sees no other."""
    visible = environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return None if len(visible) == 1 and visible[0] else _number(environ, name)


def _hosts_variable(environ: Environ) -> str | None:
    names = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")
    return next((name for name in names if name in environ), None)


def _is_tpu_vm(environ: Environ) -> bool:
    skipped = environ.get("TPU_SKIP_MDS_QUERY") or "tpu" not in environ.get("JAX_PLATFORMS", "tpu")
    chips = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
    return not skipped and bool(chips) and importlib.util.find_spec("libtpu") is not None
