"""Reading compressed files as streams: what ends too early or is corrupt is one line."""

import contextlib
import io
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.paths import reported

CHUNK_BYTES = 2**17
"""Read at once. What follows the end of a member is copied for each: chunks must be small."""
OUTPUT_BYTES = 2**20
"""Decompressed at once."""


class MemberReader(io.RawIOBase):
    """The content of a compressed file of one or more members (.zst: frames).

    Little is decompressed at once, whatever it expands to. Of the libraries' own readers, lzma's
    passes over all that follows the first member that it cannot read.
    """

    def __init__(self, file: io.IOBase, new_member: Callable[[], Any]):
        self._file, self._new_member = file, new_member
        self._input, self._output = b"", memoryview(b"")
        self._member: Any = None
        self._members = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill (the start of) a buffer; 0 at the end. EOFError if a member was cut short."""
        while not self._output and self._has_more():
            self._decompress()
        count = min(len(buffer), len(self._output))
        buffer[:count], self._output = self._output[:count], self._output[count:]
        return count

    def _has_more(self) -> bool:
        if not self._input and (self._member is None or self._member.needs_input):
            self._input = self._file.read(CHUNK_BYTES)
            if not self._input:
                if self._member is not None or not self._members:
                    raise EOFError("Compressed file ended before the end-of-stream marker")
                return False
        return True

    def _decompress(self) -> None:
        data, self._input = self._input, b""
        if self._member is None:
            if self._members:
                data = data.lstrip(b"\0")  # padding between members, or behind the last
            if not data:
                return
            self._member = self._new_member()
            self._members += 1
        self._output = memoryview(self._member.decompress(data, OUTPUT_BYTES))
        if self._member.eof:
            self._input, self._member = self._member.unused_data, None


class GzipMember:
    """zlib's decompressor behind the interface of lzma's."""

    def __init__(self):
        self._zlib = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._is_full = False

    @property
    def needs_input(self) -> bool:
        """Tell whether all that can be decompressed of the input was returned."""
        return not (self._is_full or self._zlib.unconsumed_tail)

    @property
    def eof(self) -> bool:
        """Tell whether the end of the member was reached."""
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        """What follows the member."""
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Take more input; return at most `max_length` bytes."""
        output = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self._is_full = len(output) == max_length
        return output


def _members(new_member: Callable[[], Any]) -> Callable[[io.IOBase], io.IOBase]:
    return lambda file: io.BufferedReader(MemberReader(file, new_member), CHUNK_BYTES)


def _zstd_frame() -> Any:
    from backports import zstd

    # 2 GiB: what `zstd --long=31` writes.
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 31})


DECOMPRESSORS: Mapping[str, Callable[[io.IOBase], io.IOBase]] = {
    "": lambda file: file,
    ".gz": _members(GzipMember),
    ".xz": _members(lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ)),
    ".zst": _members(_zstd_frame),
}
"""By the end of a file's name; all read streams of several members."""


@contextlib.contextmanager
def open_decompressed(path: Any, suffix: str) -> Iterator[tuple[io.IOBase, io.IOBase]]:
    """Open a file, local or remote; yield its decompressed content, and the file itself.

    Raises:
        UserError: in the context too, where reading finds the file corrupt or cut short.
    """
    with reported("read", path):
        try:
            with path.open("rb") as file, DECOMPRESSORS[suffix](file) as content:
                yield content, file
        except (lzma.LZMAError, zlib.error, EOFError) as error:
            raise UserError(f"{path} is a corrupt {suffix} file: {error}") from None
        except Exception as error:
            if type(error).__module__.partition(".")[0] != "backports":
                raise
            raise UserError(f"{path} is a corrupt {suffix} file: {error}") from None
