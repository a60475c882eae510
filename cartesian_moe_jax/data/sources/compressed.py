"""Reading compressed files as streams: what ends too early or is corrupt is one line."""

import contextlib
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cartesian_moe_jax.errors import UserError

CHUNK_BYTES = 2**20


class ZstdReader(io.RawIOBase):
    """The content of a .zst file of one or more frames.

    The library's own stream reader takes a file that was cut short for a complete one.
    """

    def __init__(self, file: io.IOBase):
        import zstandard

        # 2 GiB: what `zstd --long=31` writes.
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)
        self._file, self._input, self._output = file, b"", memoryview(b"")
        self._frame: Any = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill (the start of) a buffer; 0 at the end. EOFError if a frame was cut short."""
        while not self._output:
            if not self._input:
                self._input = self._file.read(CHUNK_BYTES)
            if not self._input:
                if self._frame is not None:
                    raise EOFError("Compressed file ended before the end-of-stream marker")
                return 0
            self._frame = self._frame or self._decompressor.decompressobj()
            self._output = memoryview(self._frame.decompress(self._input))
            self._input = b""
            if self._frame.eof:
                self._input, self._frame = self._frame.unused_data, None
        count = min(len(buffer), len(self._output))
        buffer[:count], self._output = self._output[:count], self._output[count:]
        return count


def _open_zstd(file: io.IOBase) -> io.IOBase:
    return io.BufferedReader(ZstdReader(file), CHUNK_BYTES)


DECOMPRESSORS: Mapping[str, Callable[[io.IOBase], io.IOBase]] = {
    "": lambda file: file,
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".xz": lzma.LZMAFile,
    ".zst": _open_zstd,
}
"""By the end of a file's name; all read streams of several members."""


@contextlib.contextmanager
def open_decompressed(path: Any, suffix: str) -> Iterator[tuple[io.IOBase, io.IOBase]]:
    """Open a file, local or remote; yield its decompressed content, and the file itself.

    Raises:
        UserError: in the context too, where reading finds the file corrupt or cut short.
    """
    try:
        with path.open("rb") as file, DECOMPRESSORS[suffix](file) as content:
            yield content, file
    except (gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError) as error:
        raise UserError(f"{path} is a corrupt {suffix} file: {error}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "zstandard":
            raise
        raise UserError(f"{path} is a corrupt {suffix} file: {error}") from None
