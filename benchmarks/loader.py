"""Loader throughput on the embedded corpus: tokens/s, median and spread over repeats.

python benchmarks/loader.py [--seq_len=512] [--batch_size=8] [--repeats=7]
"""

import argparse
import statistics
import tempfile
import time

from cartesian_moe_jax.data import ByteTokenizer, TrainingBatches, prepare, training_batches


def tokens_per_second(batches: TrainingBatches, seconds: float) -> float:
    """Take batches for a while; return inputs (batch * seq) per second."""
    tokens, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        rows, length = next(batches).shape
        tokens += rows * (length - 1)
    return tokens / elapsed


def main() -> None:
    """Pack the embedded corpus into a temporary folder and time the loader on it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seq_len", type=int, default=512)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="per repeat")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache_dir:
        start = time.perf_counter()
        packed = prepare("python_stdlib", ByteTokenizer(), cache_dir)
        seconds = time.perf_counter() - start
        train = packed.split("train")
        print(f"prepare: {train.num_bytes / 1e6:.1f} MB of training text, {seconds:.2f} s in all")
        batches = training_batches(train, flags.seq_len, flags.batch_size, seed=0)
        tokens_per_second(batches, flags.seconds)  # warm-up
        rates = [tokens_per_second(batches, flags.seconds) for _ in range(flags.repeats)]
        batches.close()
    rates = sorted(rate / 1e6 for rate in rates)
    print(
        f"loader: median {statistics.median(rates):.1f} M tokens/s "
        f"({rates[0]:.1f} to {rates[-1]:.1f} over {flags.repeats} repeats, "
        f"seq_len {flags.seq_len}, batch_size {flags.batch_size})"
    )


if __name__ == "__main__":
    main()
