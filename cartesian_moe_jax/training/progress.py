"""What a run shows while it works."""

import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

from cartesian_moe_jax.training.metrics import worst_dropped, worst_load

FORMAT = "step {n_fmt}/{total_fmt} |{bar:20}| {desc}left {remaining}"


class Progress:
    """A bar with step, loss, tokens/s, expert balance and time left; plain lines without a tty."""

    def __init__(self, steps: int, position: int, *, show: bool = True):
        self._first = True
        terminal = sys.stderr.isatty()
        if not terminal:
            tqdm.monitor_interval = 0  # or a thread adds lines between ours
        self._bar = tqdm(
            total=steps,
            initial=position,
            unit="step",
            desc="compiling  ",
            disable=not show,
            file=sys.stderr,
            mininterval=0.5 if terminal else 15.0,
            dynamic_ncols=True,
            bar_format=FORMAT if terminal else FORMAT + "\n",
        )

    def advance(self) -> None:
        """Count one step."""
        if self._first:
            self._begin()
        else:
            self._bar.update()

    def _begin(self) -> None:
        # The first step was compiled too, which says nothing about the time that is left.
        self._first, bar = False, self._bar
        bar.n += 1
        bar.initial = bar.last_print_n = bar.n
        bar.start_t = bar.last_print_t = time.time()
        bar.refresh()

    def show(self, metrics: Mapping[str, float]) -> None:
        """Show the numbers of the newest record."""
        parts = [f"loss {metrics['loss']:.3f}"]
        if "tokens_per_second" in metrics:
            parts.append(f"{metrics['tokens_per_second']:,.0f} tokens/s")
        if (load := worst_load(metrics)) is not None:
            parts.append(f"busiest expert {load:.2f}x even")
        if (dropped := worst_dropped(metrics)) > 0:
            parts.append(f"dropped {dropped:.1%}")
        self._bar.set_description_str("  ".join(parts) + "  ", refresh=False)

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        if self._bar.disable:
            return
        if sys.stderr.isatty():
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
