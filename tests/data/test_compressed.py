import gzip
import io
import lzma
import struct

import pytest
from backports import zstd

from cartesian_moe_jax.data.sources import compressed
from cartesian_moe_jax.data.sources.compressed import DECOMPRESSORS, open_decompressed
from cartesian_moe_jax.errors import UserError
from tests import messages

COMPRESS = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1}),
}
TEXT = "".join(f"line {i}: naïve 日本\n" for i in range(3000)).encode()
FORMATS = pytest.mark.parametrize("suffix", COMPRESS)


def write(tmp_path, suffix, data):
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(data)
    return path


def content_of(path, suffix):
    with open_decompressed(path, suffix) as (content, _):
        return content.read()


def message_of(path, suffix):
    return messages.message_of(content_of, path, suffix)


def test_every_format_is_tested():
    assert set(COMPRESS) | {""} == set(DECOMPRESSORS)


@pytest.mark.parametrize("chunk", [1, 1000, 2**17])
@FORMATS
def test_a_file_of_several_members_is_read_to_its_end(tmp_path, monkeypatch, suffix, chunk):
    monkeypatch.setattr(compressed, "CHUNK_BYTES", chunk)
    members = [TEXT[:100], TEXT[100:101], b"", TEXT[101:]]
    path = write(tmp_path, suffix, b"".join(map(COMPRESS[suffix], members)))
    assert content_of(path, suffix) == TEXT


def test_a_plain_file_is_read_as_they_are(tmp_path):
    assert content_of(write(tmp_path, "", TEXT), "") == TEXT
    assert content_of(write(tmp_path, "", b""), "") == b""


@FORMATS
def test_an_empty_text_is_no_error_but_an_empty_file_is_cut_short(tmp_path, suffix):
    assert content_of(write(tmp_path, suffix, COMPRESS[suffix](b"")), suffix) == b""
    path = write(tmp_path, suffix, b"")
    assert f"{path} is a corrupt {suffix} file: " in message_of(path, suffix)


@FORMATS
def test_a_file_that_was_cut_short_is_an_error_that_names_it(tmp_path, suffix):
    first, second = COMPRESS[suffix](TEXT), COMPRESS[suffix](b"end\n")
    whole = first + second
    inside_second = [len(first) + 1, len(whole) - 1]
    for stop in [1, len(first) // 2, len(first) - 1, *inside_second]:
        path = write(tmp_path, suffix, whole[:stop])
        message = message_of(path, suffix)
        assert message.startswith(f"{path} is a corrupt {suffix} file: "), stop
        assert "ended before" in message, stop


@FORMATS
def test_what_could_be_read_of_a_file_that_was_cut_short_came_first(tmp_path, suffix):
    path = write(tmp_path, suffix, COMPRESS[suffix](TEXT) + COMPRESS[suffix](TEXT)[:-1])
    lines = []
    with pytest.raises(UserError), open_decompressed(path, suffix) as (content, _):
        lines.extend(content)
    assert b"".join(lines)[: len(TEXT) // 2] == TEXT[: len(TEXT) // 2]


@FORMATS
@pytest.mark.parametrize("garbage", [b"no such format, but long enough " * 9, b"\0" * 4096])
def test_garbage_is_an_error_alone_and_behind_good_members(tmp_path, suffix, garbage):
    path = write(tmp_path, suffix, garbage)
    assert message_of(path, suffix).startswith(f"{path} is a corrupt {suffix} file: ")
    behind = garbage.replace(b"\0", b"\1")  # zeros may pad a file
    path = write(tmp_path, suffix, COMPRESS[suffix](TEXT) + behind)
    assert message_of(path, suffix).startswith(f"{path} is a corrupt {suffix} file: ")


@FORMATS
def test_zeros_between_and_behind_members_are_padding(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(compressed, "CHUNK_BYTES", 100)
    member = COMPRESS[suffix](TEXT[:500])
    path = write(tmp_path, suffix, member + b"\0" * 512 + member + b"\0" * 512)
    assert content_of(path, suffix) == TEXT[:500] * 2


@FORMATS
def test_a_flipped_bit_is_an_error(tmp_path, suffix):
    data = bytearray(COMPRESS[suffix](TEXT))
    data[len(data) // 2] ^= 1
    path = write(tmp_path, suffix, bytes(data))
    assert message_of(path, suffix).startswith(f"{path} is a corrupt {suffix} file: ")


@pytest.mark.parametrize("log_of_window", [27, 28, 31])
def test_zstd_frames_may_have_a_window_of_two_gigabytes(tmp_path, log_of_window):
    """`zstd --long=31` writes such frames; this one has a single block, not compressed."""
    header = struct.pack("<IBB", 0xFD2FB528, 0, (log_of_window - 10) << 3)
    block = struct.pack("<I", len(b"text\n") << 3 | 1)[:3] + b"text\n"
    assert content_of(write(tmp_path, ".zst", header + block), ".zst") == b"text\n"


def test_zstd_frames_to_be_skipped_are_skipped(tmp_path):
    skipped = struct.pack("<II", 0x184D2A50, 5) + b"table"
    frame = COMPRESS[".zst"](TEXT)
    path = write(tmp_path, ".zst", skipped + frame + skipped + frame + skipped)
    assert content_of(path, ".zst") == TEXT * 2


@pytest.mark.parametrize("suffix", DECOMPRESSORS)
def test_tiny_reads_give_the_same_as_one(tmp_path, suffix):
    data = COMPRESS.get(suffix, bytes)(TEXT[:2000])
    path = write(tmp_path, suffix, data)
    with open_decompressed(path, suffix) as (content, _):
        assert b"".join(iter(lambda: content.read(1), b"")) == TEXT[:2000]
        assert content.read(1) == b""
    with open_decompressed(path, suffix) as (content, _):
        assert list(content) == TEXT[:2000].splitlines(keepends=True)


class ShortReads(io.BytesIO):
    """A file that returns less than what is asked for, as one in a store may."""

    def read(self, size=-1):
        return super().read(min(size, 7) if size >= 0 else size)


@FORMATS
def test_a_file_that_returns_less_than_asked_is_read_whole(suffix):
    with DECOMPRESSORS[suffix](ShortReads(COMPRESS[suffix](TEXT))) as content:
        assert content.read() == TEXT


@FORMATS
def test_the_file_beneath_tells_how_far_it_was_read(tmp_path, suffix):
    path = write(tmp_path, suffix, COMPRESS[suffix](TEXT))
    with open_decompressed(path, suffix) as (content, file):
        content.read()
        assert file.tell() == path.stat().st_size


def test_a_file_that_cannot_be_opened_is_one_line(tmp_path):
    missing = tmp_path / "missing.txt"
    assert message_of(missing, "") == f"{missing} cannot be read: No such file or directory"
    assert message_of(tmp_path, ".gz") == f"{tmp_path} cannot be read: Is a directory"


def test_many_small_members_do_not_take_quadratic_time(tmp_path):
    """What is behind a member is copied once for each: never more than a chunk."""
    copied = []

    class Noted:
        def __init__(self):
            self.member = zstd.ZstdDecompressor()

        def __getattr__(self, name):
            return getattr(self.member, name)

        @property
        def unused_data(self):
            copied.append(len(self.member.unused_data))
            return self.member.unused_data

    path = write(tmp_path, ".zst", COMPRESS[".zst"](b"line\n") * 30_000)
    assert path.stat().st_size > 3 * compressed.CHUNK_BYTES
    reader = compressed.MemberReader(io.BytesIO(path.read_bytes()), Noted)
    assert io.BufferedReader(reader).read() == b"line\n" * 30_000
    assert len(copied) == 30_000
    assert max(copied) <= compressed.CHUNK_BYTES


@FORMATS
def test_what_expands_a_lot_is_not_expanded_at_once(tmp_path, suffix):
    path = write(tmp_path, suffix, COMPRESS[suffix](b"\0" * 10**7))
    assert path.stat().st_size < compressed.CHUNK_BYTES
    given = []

    class Noted(compressed.MemberReader):
        def readinto(self, buffer):
            count = super().readinto(buffer)
            given.append(count + len(self._output))
            return count

    with path.open("rb") as file, DECOMPRESSORS[suffix](file) as content:
        reader = Noted(file, content.raw._new_member)
        assert io.BufferedReader(reader).read() == b"\0" * 10**7
    assert max(given) <= compressed.OUTPUT_BYTES
