"""What a run says of itself while it trains: the metrics files and the progress bar."""

from typing import Any

from cartesian_moe_jax.evaluation.perplexity import Evaluation
from cartesian_moe_jax.models.feed_forwards import moe_layers
from cartesian_moe_jax.runs.directory import RunDirectory
from cartesian_moe_jax.runs.metrics_log import NoMetrics, open_metrics
from cartesian_moe_jax.training.metrics import step_metrics
from cartesian_moe_jax.training.profiler import Profiler
from cartesian_moe_jax.training.progress import Progress
from cartesian_moe_jax.training.schedule import learning_rate_schedule
from cartesian_moe_jax.training.speed import Speedometer
from cartesian_moe_jax.training.state import TrainState
from cartesian_moe_jax.training.step import StepReport
from cartesian_moe_jax.training.trainer import Trainer


class Recorder:
    """A context that records every ``log_every``-th step, the first of a session, and the last."""

    def __init__(self, trainer: Trainer, run: RunDirectory, position: int, *, writes: bool):
        self._config = trainer.config
        self._layers = moe_layers(self._config.model)
        self._rate = learning_rate_schedule(self._config.optimizer, self._config.training.steps)
        self._log = open_metrics(run.path, position) if writes else NoMetrics()
        self._progress = Progress(self._config.training.steps, position, show=writes)
        traced = self._config.profile_window() if writes else None
        self._profiler = Profiler(traced, run.path / "tensorboard", position)
        self._first = position + 1
        self.speed = Speedometer(self._config, trainer.abstract.parameters, trainer.mesh.size)

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *error: Any) -> None:
        self._profiler.close()
        self._progress.close()
        self._log.close()

    def before(self, step: int, state: TrainState) -> None:
        """Note that ``step`` is about to start from a state: it may be the first of a trace."""
        self._profiler.before(step, state)

    def step(self, step: int, report: StepReport) -> bool:
        """Note that ``step`` was started; where a record is due, wait for its numbers.

        Says whether it was.
        """
        self.speed.step()
        self._progress.advance()
        if said := self._profiler.after(step, report):
            self._progress.line(said)
        training = self._config.training
        if step % training.log_every and step not in (self._first, training.steps):
            return False
        metrics = step_metrics(report, self._layers)
        metrics["learning_rate"] = float(self._rate(step - 1))
        metrics |= self.speed.read(metrics.get("experts_per_token"))
        self._log.write(step, metrics)
        self._progress.show(metrics)
        return True

    def flush(self) -> None:
        """Put down what was recorded: a run that goes on from a checkpoint keeps what led to it."""
        self._log.flush()

    def validation(self, step: int, measured: Evaluation) -> None:
        """Record a validation, in the middle of training or at its end."""
        mean = measured.mean
        numbers = {f"validation/{k}": v for k, v in mean.as_dict().items()}
        if len(measured.by_source) > 1:
            for source, part in measured.by_source.items():
                numbers |= {f"validation/{source}/{k}": v for k, v in part.as_dict().items()}
        self._log.write(step, numbers)
        self._progress.line(
            f"step {step}: validation perplexity {mean.perplexity:.3f}, "
            f"{mean.bits_per_byte:.3f} bits per byte"
        )
