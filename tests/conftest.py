"""Eight virtual CPU devices, and shapes checked at run time: both before anything imports jax."""

import os
import shutil

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    # Compiling is what takes time here; the new emitters double it, parallel parts add to it.
    + " --xla_backend_optimization_level=0"
    + " --xla_cpu_parallel_codegen_split_count=1"
    + " --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
)

import jax
import jaxtyping
import pytest

# Imported by tests before it is their plugin.
pytest.register_assert_rewrite("tests.remote_data")

LONGEST = ("test_runner.py", "test_methods.py", "test_entry_points.py", "test_official_parity.py")
"""Files that start first, so that no process is left with one of them when the others are done."""

CHECK_SHAPES = jaxtyping.install_import_hook("cartesian_moe_jax", "beartype.beartype")


def pytest_sessionstart(session):
    if jax.device_count() < 8:
        raise pytest.UsageError(f"the tests need 8 devices, jax has {jax.device_count()}")
    cache = os.path.join(os.path.dirname(__file__), os.pardir, ".pytest_cache", "xla")
    jax.config.update("jax_compilation_cache_dir", os.path.abspath(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_collection_modifyitems(config, items):
    if "long" not in config.getoption("-m"):
        config.hook.pytest_deselected(items=[i for i in items if i.get_closest_marker("long")])
        items[:] = [item for item in items if not item.get_closest_marker("long")]
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """A one-layer run of 20 steps that train.py made on 8 devices: do not change its folder."""
    from tests import processes

    folder = tmp_path_factory.mktemp("finished")
    training = {"steps": 20, "log_every": 1}
    values = processes.values(folder, training=training, parallel={"data": -1})
    return processes.train(values, folder / "run")


@pytest.fixture
def unloaded_library(monkeypatch):
    """The kernels for CPU are built and loaded as if nothing in this process had."""
    from cartesian_moe_jax.kernels import native_library

    monkeypatch.setattr(native_library, "_load", native_library._load.__wrapped__)
    native_library.native_library_problem.cache_clear()
    yield
    native_library.native_library_problem.cache_clear()


@pytest.fixture
def no_compiler(unloaded_library, monkeypatch):
    """There is no C++ compiler: XLA computes everything."""
    from cartesian_moe_jax.kernels.native_library import native_library_problem

    monkeypatch.setenv("CXX", "no_such_compiler")
    with pytest.warns(UserWarning, match="kernels for CPU are not compiled"):
        native_library_problem()


@pytest.fixture
def unfinished(finished_run, tmp_path):
    """A copy of the run that has its checkpoints, and lacks its result."""
    copy = tmp_path / "run"
    shutil.copytree(finished_run.workdir, copy)
    (copy / "result.json").unlink()
    return copy
