"""Building the library: with compilers that fail, are missing, or run at the same time."""

import os
import platform
import re
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax.numpy as jnp
import pytest

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.kernels import BACKENDS, best_causal_attention, get_backend
from cartesian_moe_jax.kernels.native_library import (
    NativeLibraryError,
    build_native_library,
    native_library_problem,
)

TESTS = Path(__file__).parent


@pytest.fixture(autouse=True)
def cache(tmp_path, unloaded_library, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cartesian_moe_jax" / "native"


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Makes CXX a shell script."""

    def install(script):
        file = tmp_path / "compiler"
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(file.stat().st_mode | stat.S_IEXEC)
        monkeypatch.setenv("CXX", str(file))
        return file

    return install


def stand_in(log, macros="#define __AVX__ 1"):
    """A compiler that only says what it was asked, and writes its output in two pieces."""
    return f"""
echo "$@" >> {log}
for last; do :; done
case "$*" in *-dM*) echo "{macros}"; exit;; esac
echo half > "$last"; sleep 0.1; echo whole >> "$last"
"""


def test_it_is_compiled_once(tmp_path, compiler, cache):
    compiler(stand_in(tmp_path / "log"))
    first, second = build_native_library(), build_native_library()
    assert first == second and list(cache.iterdir()) == [first]
    links = [line for line in (tmp_path / "log").read_text().splitlines() if "-shared" in line]
    assert len(links) == 1


def test_another_processor_gets_another_library(tmp_path, compiler):
    compiler(stand_in(tmp_path / "log"))
    first = build_native_library()
    compiler(stand_in(tmp_path / "log", "#define __AVX512F__ 1"))
    assert build_native_library() != first


def test_those_that_build_at_once_find_it_whole(tmp_path, compiler, cache):
    compiler(stand_in(tmp_path / "log"))
    with ThreadPoolExecutor(4) as pool:
        (library,) = {run.result() for run in [pool.submit(build_native_library)] * 4}
    assert library.read_text() == "half\nwhole\n" and list(cache.iterdir()) == [library]


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_auto_is_tiled_and_native_says_why():
    assert get_backend("auto") is BACKENDS["tiled"]
    assert best_causal_attention(jnp.dtype("float32"), 64).partitions  # not the compiled one
    why = "no C++ compiler: CXX=no_such_compiler: no such program"
    assert native_library_problem() == why
    with pytest.raises(UserError, match=f"backend='native' cannot run here: {re.escape(why)}"):
        get_backend("native")


def test_left_out_by_the_environment_xla_computes_all(tmp_path, compiler, monkeypatch):
    compiler(stand_in(tmp_path / "log"))
    monkeypatch.setenv("CARTESIAN_MOE_WITHOUT", "hopper,native")
    assert get_backend("auto") is BACKENDS["tiled"]
    assert best_causal_attention(jnp.dtype("float32"), 64).partitions
    with pytest.raises(UserError, match="cannot run here: CARTESIAN_MOE_WITHOUT leaves it out"):
        get_backend("native")
    assert not (tmp_path / "log").exists()


def test_a_compiler_that_fails_leaves_nothing(compiler, cache):
    file = compiler("""
case "$*" in *-dM*) ;; *) echo "a.cc:1:2: error: 'Vector' is too wide" >&2; exit 1;; esac
""")
    with pytest.raises(NativeLibraryError, match=r"compiler failed: a.cc:1:2: error: 'Vector'"):
        build_native_library()
    assert file.exists() and list(cache.iterdir()) == []


def test_a_library_that_cannot_be_loaded_is_a_problem(tmp_path, compiler, cache):
    compiler(stand_in(tmp_path / "log"))
    with pytest.warns(UserWarning, match="not compiled"):
        assert str(cache) in native_library_problem()


def test_a_cache_in_an_object_store_is_not_for_libraries(tmp_path, compiler, monkeypatch):
    compiler(stand_in(tmp_path / "log"))
    monkeypatch.setenv("XDG_CACHE_HOME", "gs://bucket/home")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert build_native_library().parent == tmp_path / ".cache/cartesian_moe_jax/native"


def test_a_cache_that_cannot_be_written_is_a_problem(tmp_path, compiler, monkeypatch):
    compiler(stand_in(tmp_path / "log"))
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="not compiled"):
        assert native_library_problem().endswith("Not a directory")


@pytest.mark.long
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the processors are x86-64's")
@pytest.mark.parametrize("processor", ["x86-64", "x86-64-v3"])
def test_vectors_of_other_processors(processor, compiler, cache):
    """Of 4 and of 8 lanes, on this processor, which has them too."""
    compiler(f'exec c++ "$@" -march={processor}')
    files = ("test_grouped_feed_forward.py", "test_causal_attention.py", "test_native.py")
    command = [sys.executable, "-m", "pytest", "-k", "native", *(str(TESTS / f) for f in files)]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert run.returncode == 0, run.stdout
    assert len(list(cache.iterdir())) == 1
