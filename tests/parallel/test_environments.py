"""A process's place among others, from flags and from what starts processes."""

import http.server
import importlib
import os
import threading

import pytest

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.parallel import environments
from cartesian_moe_jax.parallel.environments import ENVIRONMENTS, Place, find_place

SLURM = {
    "SLURM_JOB_ID": "5000",
    "SLURM_NTASKS": "99",
    "SLURM_STEP_NODELIST": "gpu[003-017,20],big1",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
    "SLURM_PROCID": "11",
    "SLURM_LOCALID": "3",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
}
TPU = {"TPU_WORKER_HOSTNAMES": "t-0.svc,t-1.svc,t-2.svc,t-3.svc", "TPU_WORKER_ID": "2"}
SLICES = {
    **TPU,
    "MEGASCALE_COORDINATOR_ADDRESS": "t-0-0.svc:8080",
    "MEGASCALE_NUM_SLICES": "3",
    "MEGASCALE_SLICE_ID": "1",
}
VARIABLES = {
    "JAX_COORDINATOR_ADDRESS": "h:1",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
}
ALL = Place("a:1", 2, 1)

FOUND = {
    "nothing": ({}, Place(), None),
    "flags": ({}, ALL, ALL),
    "one, whatever the environment": (SLURM, Place(count=1), None),
    "variables": (VARIABLES, Place(), Place("h:1", 4, 3)),
    "flags before variables": (VARIABLES, Place(index=0), Place("h:1", 4, 0)),
    "flags before all": (SLURM, ALL, ALL),
    "SLURM": (SLURM, Place(), Place("gpu003:62344", 16, 11, 3)),
    "SLURM, which gave each task its GPU": (
        SLURM | {"CUDA_VISIBLE_DEVICES": "0"},
        Place(),
        Place("gpu003:62344", 16, 11, None),
    ),
    "SLURM, a task for each host": (
        SLURM | {"SLURM_STEP_TASKS_PER_NODE": "1(x16)", "CUDA_VISIBLE_DEVICES": "0,1,2,3"},
        Place(),
        Place("gpu003:62344", 16, 11, None),
    ),
    "SLURM, one task": (SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, Place(), None),
    "SLURM, a batch script": (
        {k: v for k, v in SLURM.items() if "STEP" not in k} | {"SLURM_PROCID": "0"},
        Place(),
        None,
    ),
    "SLURM, another port": (
        SLURM | {"JAX_COORDINATOR_PORT": "777"},
        Place(),
        Place("gpu003:777", 16, 11, 3),
    ),
    "Open MPI": (OPEN_MPI, Place(), Place("10.96.0.1:62624", 4, 2, 0)),
    "Open MPI within SLURM": (SLURM | OPEN_MPI, Place(), Place("10.96.0.1:62624", 4, 2, 0)),
    "Open MPI, IPv6": (
        OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": "4096.0;tcp6://[fe80::1,2620::2]:43370"},
        Place(),
        Place("[fe80::1]:61441", 4, 2, 0),
    ),
    "Open MPI 5": (
        {k: v for k, v in OPEN_MPI.items() if "uri" not in k} | {"JAX_COORDINATOR_ADDRESS": "h:1"},
        Place(),
        Place("h:1", 4, 2, 0),
    ),
    "a TPU slice": (TPU, Place(), Place("t-0.svc:8482", 4, 2)),
    "TPU slices": (SLICES, Place(), Place("t-0-0.svc:8482", 12, 6)),
    "a TPU host alone": ({"TPU_WORKER_HOSTNAMES": "localhost"}, Place(), None),
}

WRONG = {
    "half of the flags": ({}, Place("a:1", 2), r"^--process=I \(or JAX_PROCESS_ID\) missing"),
    "one flag": ({}, Place(index=1), r"^--coordinator=.* and --processes=N .* missing"),
    "half of the variables": (
        {"JAX_NUM_PROCESSES": "2"},
        Place(),
        r"JAX_COORDINATOR_ADDRESS\) and .*JAX_PROCESS_ID\) missing",
    ),
    "no such process": ({}, Place("a:1", 2, 2), "^--process=2 .*0 to --processes - 1 = 1"),
    "no port": ({}, Place("host", 2, 0), "^--coordinator='host' .*HOST:PORT"),
    "not a number": (VARIABLES | {"JAX_PROCESS_ID": "x"}, Place(), "^JAX_PROCESS_ID='x' .*least 0"),
    "no processes": (VARIABLES | {"JAX_NUM_PROCESSES": "0"}, Place(), "^JAX_NUM_PROCESSES='0' .*1"),
    "SLURM without a rank": (
        {k: v for k, v in SLURM.items() if k != "SLURM_PROCID"},
        Place(),
        "^SLURM_PROCID is missing",
    ),
    "SLURM without nodes": (
        SLURM | {"SLURM_STEP_NODELIST": ",x"},
        Place(),
        "^SLURM_STEP_NODELIST=",
    ),
    "Open MPI 5 without a coordinator": (
        {k: v for k, v in OPEN_MPI.items() if "uri" not in k},
        Place(),
        "JAX_COORDINATOR_ADDRESS.* missing",
    ),
    "a TPU host without a number": (
        {**TPU, "TPU_WORKER_ID": ""},
        Place(),
        "^TPU_WORKER_ID is miss",
    ),
    "a TPU host beyond the slice": ({**TPU, "TPU_WORKER_ID": "4"}, Place(), "='4' .*0 to 3"),
    "no TPU hosts": ({"TPU_WORKER_HOSTNAMES": ""}, Place(), "^TPU_WORKER_HOSTNAMES='' names no"),
    "slices without a number": (
        {k: v for k, v in SLICES.items() if k != "MEGASCALE_SLICE_ID"},
        Place(),
        "^MEGASCALE_SLICE_ID is missing",
    ),
    "slices without a coordinator": (
        {k: v for k, v in SLICES.items() if "COORDINATOR" not in k},
        Place(),
        "^MEGASCALE_COORDINATOR_ADDRESS is missing",
    ),
}


@pytest.mark.parametrize("case", FOUND)
def test_the_place_that_is_found(case):
    environ, given, place = FOUND[case]
    assert find_place(given, environ) == place


@pytest.mark.parametrize("case", WRONG)
def test_what_is_missing_or_wrong_is_one_line(case):
    environ, given, words = WRONG[case]
    with pytest.raises(UserError, match=words) as caught:
        find_place(given, environ)
    assert "\n" not in str(caught.value)


JAX_FINDS = {
    "SLURM": ("slurm_cluster", "SlurmCluster", SLURM | {"SLURM_NTASKS": "16"}),
    "Open MPI": ("ompi_cluster", "OmpiCluster", OPEN_MPI),
    "a TPU slice": ("cloud_tpu_cluster", "GkeTpuCluster", TPU),
    "TPU slices": ("cloud_tpu_cluster", "GkeTpuCluster", SLICES),
}


@pytest.mark.parametrize("case", JAX_FINDS)
def test_jax_finds_the_same_place(case, monkeypatch):
    module, name, environ = JAX_FINDS[case]
    theirs = getattr(importlib.import_module(f"jax._src.clusters.{module}"), name)
    for key, value in environ.items():
        monkeypatch.setenv(key, value)
    if "TPU" in case:
        monkeypatch.setattr(theirs, "wait_for_coordinator", lambda *arguments: None)
        # Or it asks a metadata server.
        monkeypatch.setattr(f"{theirs.__module__}.get_tpu_env_value", os.environ.get)
    address = theirs.get_coordinator_address(timeout_secs=1, override_coordinator_port=None)
    found = Place(address, theirs.get_process_count(), theirs.get_process_id())
    ours = find_place(Place(), environ)
    assert (ours.coordinator, ours.count, ours.index) == (
        found.coordinator,
        found.count,
        found.index,
    )


@pytest.fixture
def metadata_server(monkeypatch):
    """A metadata server with the given attributes, on a machine taken for a TPU VM."""
    attributes = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            key = self.path.removeprefix("/computeMetadata/v1/instance/attributes/")
            known = key in attributes and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(attributes.get(key, "").encode())

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(environments.glob, "glob", lambda pattern: ["/dev/accel0"])
    monkeypatch.setattr(environments.importlib.util, "find_spec", lambda name: name == "libtpu")
    yield attributes, {"GCE_METADATA_IP": f"localhost:{server.server_port}"}
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("hosts", ["10.0.0.5,10.0.0.6", "a:1:10.0.0.5,b:2:10.0.0.6"])
def test_a_cloud_tpu_vm_asks_its_metadata_server(metadata_server, hosts):
    attributes, environ = metadata_server
    attributes |= {
        "agent-worker-number": "1",
        "worker-network-endpoints": hosts,
        "tpu-env": "A: '1'",
    }
    assert find_place(Place(), environ) == Place("10.0.0.5:8482", 2, 1)
    told = "MEGASCALE_COORDINATOR_ADDRESS: '10.9.9.9:80'\nMEGASCALE_NUM_SLICES: '2'\n"
    attributes["tpu-env"] = f"{told}MEGASCALE_SLICE_ID: '1'\n"
    assert find_place(Place(), environ) == Place("10.9.9.9:8482", 4, 3)
    assert find_place(Place(), environ | {"TPU_SKIP_MDS_QUERY": "1"}) is None
    assert find_place(Place(), environ | {"JAX_PLATFORMS": "cpu"}) is None


def test_a_metadata_server_that_does_not_know_is_one_line(metadata_server):
    _, environ = metadata_server
    with pytest.raises(UserError, match=r"worker-network-endpoints does not .*404.*--processes=1"):
        find_place(Place(), environ)


def test_every_environment_is_recognised_by_some_case():
    environs = [environ for environ, *_ in FOUND.values()]
    found = {n for n, e in ENVIRONMENTS.items() if any(e.recognised(one) for one in environs)}
    assert found == set(ENVIRONMENTS) - {"Cloud TPU VM"}
