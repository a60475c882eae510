"""The compiled kernels for CPU: built from C++ once for a machine, then loaded from the cache."""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jaxlib

from cartesian_moe_jax.cache import cache_folder
from cartesian_moe_jax.kernels.left_out import WITHOUT, is_left_out

SOURCES = Path(__file__).with_name("native")
TARGETS = (
    "cartesian_moe_forward",
    "cartesian_moe_to_rows",
    "cartesian_moe_to_weights",
    "cartesian_moe_attend",
    "cartesian_moe_attend_gradients",
)
"""The functions of the library: XLA calls them by these names."""

_COMPILERS = ("c++", "g++", "clang++")
_FLAGS = ("-O3", "-march=native", "-std=c++20", "-fPIC", "-w")


class NativeLibraryError(Exception):
    """The kernels cannot be built or loaded here; the message says why in one line."""


@functools.cache
def native_library_problem() -> str:
    """Build the library if it is not in the cache, and load it; return why not, or nothing.

    The compiler is that of the environment variable CXX, else c++, g++ or clang++. The first call
    of a process decides. Left out where the environment says so, as to compare with XLA alone.
    """
    if is_left_out("native"):
        return f"{WITHOUT} leaves it out"
    try:
        _load()
    except NativeLibraryError as problem:
        said = (
            f"the kernels for CPU are not compiled: {problem}; XLA's take up to half as long again"
        )
        # Of no line of code: where the kernels are first asked for tells a user nothing.
        warnings.warn_explicit(said, UserWarning, "cartesian_moe_jax", 0)
        return str(problem)
    return ""


def build_native_library() -> Path:
    """Return the library for this processor, compiler and jax, built if it is not there yet.

    Raises NativeLibraryError.
    """
    compiler = _compiler()
    library = _folder() / f"kernels_{_fingerprint(compiler)}.so"
    if not library.exists():
        try:
            library.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=library.parent) as folder:
                built = _compile(compiler, Path(folder))
                os.replace(built, library)  # whole or not at all, for processes that start together
        except OSError as error:
            raise NativeLibraryError(f"{library}: {error.strerror}") from error
    return library


@functools.cache
def _load() -> None:
    """Once in a process, from where it is first: XLA takes no second function of a name."""
    library = build_native_library()
    try:
        functions = ctypes.CDLL(str(library))
    except OSError as error:
        raise NativeLibraryError(str(error)) from error  # which names the file
    for target in TARGETS:
        capsule = jax.ffi.pycapsule(getattr(functions, target))
        jax.ffi.register_ffi_target(target, capsule, platform="cpu")


def _folder() -> Path:
    """Where this machine keeps libraries; a cache in an object store cannot hold them."""
    cache = cache_folder("", "native")
    return (
        cache if isinstance(cache, Path) else cache_folder("~/.cache/cartesian_moe_jax/native", "")
    )


def _compiler() -> str:
    named = os.environ.get("CXX")
    for name in [named] if named else _COMPILERS:
        if found := shutil.which(name):
            return found
    none = f"CXX={named}: no such program" if named else f"none of {', '.join(_COMPILERS)}"
    raise NativeLibraryError(f"no C++ compiler: {none}")


def _compile(compiler: str, folder: Path) -> Path:
    """Compile the sources side by side into ``folder``; return the library they make."""

    def compiled(source: str) -> str:
        result = folder / Path(source).with_suffix(".o").name
        _run(compiler, "-c", source, "-o", str(result))
        return str(result)

    with ThreadPoolExecutor() as pool:
        objects = list(pool.map(compiled, _sources("*.cc")))
    library = folder / "kernels.so"
    _run(compiler, "-shared", *objects, "-o", str(library))
    return library


def _fingerprint(compiler: str) -> str:
    """Of all that a library depends on; the compiler's macros name it and the processor."""
    macros = _run(compiler, "-dM", "-E", "-x", "c++", os.devnull)
    parts = [macros, jaxlib.__version__, *_FLAGS, *(Path(p).read_text() for p in _sources("*.*"))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _sources(pattern: str) -> Sequence[str]:
    return sorted(map(str, SOURCES.glob(pattern)))


def _run(compiler: str, *arguments: str) -> str:
    command = [compiler, *_FLAGS, "-isystem", jax.ffi.include_dir(), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        lines = [line for line in run.stderr.splitlines() if "error" in line] or ["no error said"]
        raise NativeLibraryError(f"{compiler} failed: {lines[0]}")
    return run.stdout
