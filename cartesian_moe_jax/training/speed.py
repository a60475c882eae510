"""How fast a run goes: tokens per second, and the share of the chips' peak that the model uses."""

import functools
import time
from collections.abc import Mapping
from typing import Any

import jax

from cartesian_moe_jax.config import Config
from cartesian_moe_jax.models.budget import training_flops_per_token
from cartesian_moe_jax.parallel.chips import chip_of


class Speedometer:
    """Times the steps between readings; the first reading only starts the clock (compilation)."""

    def __init__(self, config: Config, parameters: Mapping[str, Any], devices: int):
        self._tokens_per_step = config.training.batch_size * config.data.seq_len
        chip = chip_of(jax.devices()[0])
        self._peak_flops = chip.peak_flops * devices if chip else None
        self._flops = functools.partial(
            training_flops_per_token, parameters, config.model, config.data.seq_len
        )
        self._since: float | None = None
        self._steps = 0
        self.seconds = 0.0
        """Timed so far."""
        self.tokens = 0
        """Trained on in that time."""

    def step(self) -> None:
        """Count one step."""
        self._steps += 1

    def read(self, experts_per_token: int | float | None = None) -> dict[str, float]:
        """Return the rates since the last reading; call it when the counted steps are finished.

        ``experts_per_token`` is the mean number of routed experts used, where it varies.
        """
        now, since, steps = time.perf_counter(), self._since, self._steps
        self._since, self._steps = now, 0
        if since is None or not steps:
            return {}
        self.seconds += now - since
        self.tokens += steps * self._tokens_per_step
        rate = steps * self._tokens_per_step / (now - since)
        if self._peak_flops is None:
            return {"tokens_per_second": rate}
        mfu = rate * self._flops(experts_per_token) / self._peak_flops
        return {"tokens_per_second": rate, "mfu": mfu}

    def pause(self) -> None:
        """Stop the clock until the next reading; call it when the counted steps are finished."""
        self.read()
        self._since = None
