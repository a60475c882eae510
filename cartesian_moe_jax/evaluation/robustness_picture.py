"""A robustness test as a picture."""

import io
from typing import Any

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.evaluation.robustness import LABELS
from cartesian_moe_jax.paths import AnyPath, write_atomically

FORMATS = ("svg", "png", "pdf")


def check_picture(path: AnyPath) -> None:
    """Raise UserError, before anything is measured, if no picture can be drawn to ``path``."""
    if path.suffix.removeprefix(".") not in FORMATS:
        raise UserError(f"--picture={path} must end in one of {', '.join(FORMATS)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError("--picture needs the package matplotlib (pip install matplotlib)") from None


def draw_robustness(records: list[dict[str, Any]], path: AnyPath) -> None:
    """Draw the rise of the loss of each trial as bars, those of single removed experts as points.

    Raises UserError if the picture cannot be written.
    """
    from matplotlib.figure import Figure

    shown = [r for r in records if r["kind"] in ("disabled", "random")][::-1]
    removed = [r["loss_rise"] for r in records if r["kind"] == "removed"]
    figure = Figure(figsize=(7, 1 + 0.3 * (len(shown) + 1)), layout="constrained")
    axes = figure.subplots()
    names = [f"{LABELS[r['kind']].format(r['amount'])}, {r['where']}" for r in shown]
    axes.barh(names, [r["loss_rise"] for r in shown], color="#4c78a8")
    if removed:
        axes.plot(removed, ["one expert removed"] * len(removed), "|", color="#e45756")
    axes.axvline(0, color="black", linewidth=0.8)
    perplexity = records[0]["perplexity"]
    axes.set(xlabel="rise of the loss, nats per token", title=f"undisturbed: {perplexity:.2f} ppl")
    axes.grid(axis="x", alpha=0.3)
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix.removeprefix("."))
    write_atomically(path, drawn.getvalue())
