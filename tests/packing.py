"""Small packed corpora for tests."""

import pathlib

from cartesian_moe_jax.data import ByteTokenizer, PackedCorpus, PackSettings, pack, parse_source


def pack_texts(folder: pathlib.Path, texts: dict[str, str], **options) -> PackedCorpus:
    """Write texts as files below a folder and pack them, two shards or more where they fit."""
    for name, text in texts.items():
        path = folder / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return pack_spec(folder, f"text:{folder / 'source'}", **options)


def pack_spec(folder, spec, tokenizer=None, split="", **options) -> PackedCorpus:
    """Pack a source into the cache below a folder."""
    settings = PackSettings(str(folder / "cache"), **{"shard_tokens": 1000} | options)
    return pack(parse_source(spec), tokenizer or ByteTokenizer(), settings, split)


def numbered_lines(count: int) -> str:
    """Return a text in which every line is another one."""
    return "".join(f"line {number}\n" for number in range(count))
