"""Data floor: MB/s of preparing text as bytes and as BPE, and tokens/s of the loader.

python -m benchmarks.data [--megabytes=200] [--repeats=5] [--json=FILE]

The text is the standard library of the running Python, repeated. BPE is compared with the
`tokenizers` library's own encode_batch on the same texts and cores, interleaved.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cartesian_moe_jax.data import (
    ByteTokenizer,
    PackedTokens,
    PackSettings,
    Part,
    pack,
    parse_source,
    training_batches,
)
from cartesian_moe_jax.data.sources.files import stdlib_files
from cartesian_moe_jax.data.tokenizers import Tokenizer, resolve_tokenizer, train_bpe

Rates = dict[str, list[float]]


def write_corpus(folder: Path, megabytes: int) -> list[str]:
    """Write four .jsonl files of so much text in all; return the texts."""
    sources = [Path(file.path).read_text(encoding="utf-8") for file in stdlib_files()]
    texts, size = [], 0
    while size < megabytes * 10**6:
        texts.append(f"# {len(texts)}\n{sources[len(texts) % len(sources)]}")
        size += len(texts[-1])
    for part in range(4):
        rows = (json.dumps({"text": text}) + "\n" for text in texts[part::4])
        (folder / f"part{part}.jsonl").write_text("".join(rows), encoding="utf-8")
    return texts


def timed(run: Callable[[], Any]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def preparing(folder: Path, texts: Sequence[str], workers: int, repeats: int) -> Rates:
    """Measure MB/s of text, of each way and stage, interleaved."""
    spec = parse_source(f"text:{folder}/*.jsonl")
    target = folder / "bpe.json"
    train_bpe(iter(texts[:700]), 8192, target)
    bpe = resolve_tokenizer(str(target))
    cache = folder / "cache"

    def packed(tokenizer: Tokenizer, *, anew: bool) -> Callable[[], Any]:
        def run() -> None:
            for path in [cache] if anew else cache.glob("text-*"):
                shutil.rmtree(path, ignore_errors=True)
            pack(spec, tokenizer, PackSettings(str(cache), workers=workers))

        return run

    library = _library(target)
    ways = {
        "bytes, from files to shards": packed(ByteTokenizer(), anew=True),
        "bytes, from datasets to shards": packed(ByteTokenizer(), anew=False),
        "bpe, from datasets to shards": packed(bpe, anew=False),
        "bpe, the library's encode_batch": lambda: library.encode_batch(texts),
    }
    size = sum(len(text.encode()) for text in texts) / 1e6
    rates: Rates = {name: [] for name in ways}
    for _ in range(repeats):
        for name, run in ways.items():
            rates[name].append(size / timed(run))
    return rates


def _library(file: Path) -> Any:
    from tokenizers import Tokenizer as LibraryTokenizer

    return LibraryTokenizer.from_file(str(file))


def loading(tokens: PackedTokens, seq_len: int, batch_size: int, repeats: int) -> Rates:
    """Measure M tokens/s of the loader, on one source and on a mixture of three."""
    mixtures = {
        "loader, one source": (Part("a", 1.0, tokens),),
        "loader, mixture of 3": tuple(
            Part(name, weight, tokens) for name, weight in (("a", 0.6), ("b", 0.3), ("c", 0.1))
        ),
    }
    rates: Rates = {}
    for name, parts in mixtures.items():
        batches = training_batches(parts, seq_len, batch_size, seed=0)
        _tokens_per_second(batches)  # warm-up
        rates[name] = [_tokens_per_second(batches) / 1e6 for _ in range(repeats)]
        batches.close()
    return rates


def _tokens_per_second(batches: Any, seconds: float = 1.0) -> float:
    tokens, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        rows, length = next(batches).shape
        tokens += rows * (length - 1)
    return tokens / elapsed


def main() -> None:
    """Measure, print a table, and leave JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seq_len", type=int, default=512)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = write_corpus(folder, flags.megabytes)
        rates = preparing(folder, texts, flags.workers, flags.repeats)
        settings = PackSettings(str(folder / "cache"), workers=flags.workers)
        packed = pack(parse_source(f"text:{folder}/*.jsonl"), ByteTokenizer(), settings)
        rates |= loading(packed.split("train"), flags.seq_len, flags.batch_size, flags.repeats)
    for name, values in rates.items():
        unit = "M tokens/s" if name.startswith("loader") else "MB/s"
        print(
            f"{name:34} {statistics.median(values):7.1f} {unit} "
            f"({min(values):.1f} to {max(values):.1f})"
        )
    if flags.json:
        flags.json.write_text(json.dumps({"flags": str(vars(flags)), "rates": rates}, indent=1))


if __name__ == "__main__":
    main()
