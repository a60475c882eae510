"""The loss curves of runs as a picture: python -m benchmarks.curve RUN [RUN ...] --to=FILE.svg.

Training loss of every record, validation loss where it was measured; nats per token against tokens.
"""

import argparse
from pathlib import Path

from cartesian_moe_jax.paths import as_path
from cartesian_moe_jax.runs.directory import RunDirectory
from cartesian_moe_jax.runs.metrics_log import run_metrics


def main() -> None:
    """Draw."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=as_path)
    parser.add_argument("--to", type=Path, required=True)
    flags = parser.parse_args()
    plt.rcParams["svg.hashsalt"] = "curve"  # the same picture each time
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for path in flags.runs:
        config = RunDirectory.of_existing(path).config()
        tokens = config.training.batch_size * config.data.seq_len / 1e6
        records = run_metrics(path)
        train = [(r["step"] * tokens, r["loss"]) for r in records if "loss" in r]
        axes.plot(*zip(*train, strict=True), linewidth=0.6, label=f"{path.name}: training")
        held = [
            (r["step"] * tokens, r["validation/loss"]) for r in records if "validation/loss" in r
        ]
        if held:
            axes.plot(*zip(*held, strict=True), "o-", label=f"{path.name}: validation")
    axes.set(xlabel="tokens (millions)", ylabel="nats per token")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(flags.to, metadata={"Date": None})


if __name__ == "__main__":
    main()
