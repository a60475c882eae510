"""How far the loss curves of runs lie from that of a first one, at equal tokens.

    python -m benchmarks.curve_distance FIRST OTHER [OTHER ...] --after=100000

Each is a record of a study (records/NAME.json) or a run folder. Shown are the mean of the
differences, other minus first, and of their absolute values: a curve of the same shape that lags
behind has a large mean; two runs that learn alike have small ones of both.
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.paths import AnyPath, as_path, reported
from cartesian_moe_jax.runs.directory import RunDirectory
from cartesian_moe_jax.runs.metrics_log import run_metrics

Curve = Mapping[int, float]
"""Training loss in nats per token, by tokens trained on."""
HEADER = "mean difference   mean absolute difference   points"


def curve_of(path: AnyPath) -> Curve:
    """Return the curve of a record or of a run."""
    if path.suffix == ".json":
        with reported("read", path):
            curve = json.loads(path.read_text())["curve"]
        return dict(zip(curve["tokens"], curve["loss"], strict=True))
    config = RunDirectory.of_existing(path).config()
    tokens = config.training.batch_size * config.data.seq_len
    return {r["step"] * tokens: r["loss"] for r in run_metrics(path) if r.get("loss") is not None}


def differences(first: Curve, other: Curve, after: int) -> list[float]:
    """Return other minus first wherever both have a value beyond ``after`` tokens."""
    shared = [tokens for tokens in first if tokens > after and tokens in other]
    if not shared:
        raise UserError(f"--after={after} leaves no number of tokens that both curves have")
    return [other[tokens] - first[tokens] for tokens in shared]


def table(first: AnyPath, others: Sequence[AnyPath], after: int) -> str:
    """Return a header, and a line for each other curve."""
    reference, lines = curve_of(first), [HEADER]
    for path in others:
        found = differences(reference, curve_of(path), after)
        mean, absolute = statistics.mean(found), statistics.mean(map(abs, found))
        lines.append(f"{mean:+15.3f}   {absolute:24.3f}   {len(found):6}   {path.name}")
    return "\n".join(lines)


def main() -> None:
    """Print the table; what cannot be compared is one line and status 2."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=as_path)
    parser.add_argument("others", nargs="+", type=as_path)
    parser.add_argument("--after", type=int, default=0, help="tokens; earlier losses do not count")
    flags = parser.parse_args()
    try:
        print(table(flags.first, flags.others, flags.after))
    except UserError as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
