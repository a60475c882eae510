"""A stand-in for an object store behind gs://, which processes may share: a folder of objects.

It does what object stores do: an object appears when its upload ends, nothing is appended, there
are no folders, and a rename is a copy and a removal (none of ours is expected: they are counted).
"""

import io
import os
import uuid
from pathlib import Path
from urllib.parse import quote, unquote

import fsspec
import pytest
from etils.epath import backend
from fsspec.registry import _registry
from fsspec.spec import AbstractFileSystem

PROTOCOLS = ("gcs", "gs")


class Store:
    """What the stand-in holds, and what happened to it. Buckets: ``bucket`` alone."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.buckets = {"bucket"}
        self.written: list[str] = []
        """Objects in the order in which their uploads ended."""
        self.read: list[str] = []
        """Objects in the order in which they were opened to be read."""
        self.renamed: list[str] = []
        self.failure: Exception | None = None
        """What every access raises, to play a store that is out of reach."""
        self.file_system: type[AbstractFileSystem]
        """For tests that replace some of its methods."""

    def file(self, name):
        """The file that keeps an object; its name holds the whole path: there are no folders."""
        return self.folder / quote(name, safe="")

    def objects(self):
        """Every object's content by its path, ``bucket/folder/name``."""
        files = [file for file in self.folder.iterdir() if file.suffix != ".uploading"]
        return {unquote(file.name): file.read_bytes() for file in sorted(files)}

    def put(self, name, content):
        """Make or replace an object."""
        temporary = self.folder / f"{uuid.uuid4().hex}.uploading"
        temporary.write_bytes(content)
        os.replace(temporary, self.file(name))
        self.written.append(name)

    def reach(self, path):
        """Raise what is to be raised; return the path without scheme and slashes at its ends."""
        if self.failure is not None:
            raise self.failure
        return StandInFileSystem._strip_protocol(path).strip("/")


class Upload(io.BytesIO):
    """An object being written: it is in the store when it is closed, even after an error."""

    def __init__(self, store, name):
        super().__init__()
        self.store, self.name = store, name

    def close(self):
        if not self.closed:
            self.store.put(self.name, self.getvalue())
        super().close()


class StandInFileSystem(AbstractFileSystem):
    """fsspec's view of the store."""

    protocol = PROTOCOLS
    cachable = False
    store: Store

    def info(self, path, **options):
        name = self.store.reach(path)
        found = self._find_object(name)
        if found:
            return found
        if name in self.store.buckets or self._below(name):
            return {"name": name, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def exists(self, path, **options):
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def ls(self, path, detail=True, **options):
        name = self.store.reach(path)
        own = self._find_object(name)
        firsts = {below.split("/")[0] for below in self._below(name)}
        if not own and not firsts and name not in self.store.buckets:
            raise FileNotFoundError(path)
        found = [self.info(f"{name}/{first}") for first in sorted(firsts - {""})]
        if own or "" in firsts:  # an object is listed as its own child, and so is "folder/"
            found.append({"name": name, "size": 0, "type": "file"})
        return found if detail else [entry["name"] for entry in found]

    def find(self, path, **options):
        try:  # as gcsfs does: fsspec's own passes over folders that cannot be listed
            return super().find(path, on_error="raise", **options)
        except FileNotFoundError:
            return {} if options.get("detail") else []

    def _find_object(self, name):
        file = self.store.file(name)
        if not file.is_file():
            return None
        status = file.stat()
        return {"name": name, "size": status.st_size, "type": "file", "mtime": status.st_mtime}

    def _below(self, name):
        return [o[len(name) + 1 :] for o in self.store.objects() if o.startswith(f"{name}/")]

    def _open(self, path, mode="rb", **options):
        name = self.store.reach(path)
        if name.split("/")[0] not in self.store.buckets:
            raise FileNotFoundError(path)
        if mode == "wb":
            return Upload(self.store, name)
        if mode != "rb":
            raise NotImplementedError(f"mode {mode!r}: objects are read, or written whole")
        self.store.read.append(name)
        return io.BytesIO(self.store.file(name).read_bytes())

    def _rm(self, path):
        self.store.file(self.store.reach(path)).unlink()

    def mkdir(self, path, create_parents=True, **options):
        name = self.store.reach(path)
        if "/" not in name or create_parents:  # as gcsfs does
            self.store.buckets.add(name.split("/")[0])

    def makedirs(self, path, exist_ok=False):
        self.mkdir(path)

    def rmdir(self, path):
        self.store.reach(path)

    def cp_file(self, path1, path2, **options):
        self.store.renamed.append(self.store.reach(path2))
        self.store.put(self.store.reach(path2), self.store.objects()[self.store.reach(path1)])


def install(folder):
    """Put the stand-in behind gs:// in this process; returns the store."""
    store = StandInFileSystem.store = Store(folder)
    store.file_system = StandInFileSystem
    for protocol in PROTOCOLS:
        fsspec.register_implementation(protocol, StandInFileSystem, clobber=True)
    backend._FileSystemSpecBackend._get_filesystem.cache_clear()
    return store


def uninstall():
    """Put back what was behind gs://."""
    for protocol in PROTOCOLS:
        _registry.pop(protocol, None)
    backend._FileSystemSpecBackend._get_filesystem.cache_clear()


@pytest.fixture
def object_store(tmp_path):
    """An empty store behind gs://bucket for the time of one test."""
    folder = tmp_path / "object-store"
    folder.mkdir()
    yield install(folder)
    uninstall()
