"""Small packed corpora for tests."""

import pathlib

from cartesian_moe_jax.data import ByteTokenizer, PackedCorpus, prepare


def pack_texts(folder: pathlib.Path, texts: dict[str, str], **options) -> PackedCorpus:
    """Write texts as files below a folder and pack them, two shards or more where they fit."""
    for name, text in texts.items():
        path = folder / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    options = {"shard_tokens": 1000} | options
    return prepare(f"text:{folder / 'source'}", ByteTokenizer(), folder / "cache", **options)


def numbered_lines(count: int) -> str:
    """Return a text in which every line is another one."""
    return "".join(f"line {number}\n" for number in range(count))
