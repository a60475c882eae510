"""Downstream tasks, of a run or of a model in memory."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jax.sharding import Mesh

from cartesian_moe_jax.config import Config
from cartesian_moe_jax.data.tokenizers import Tokenizer
from cartesian_moe_jax.evaluation.changeable import Changes
from cartesian_moe_jax.evaluation.downstream.answers import AnswerWriter
from cartesian_moe_jax.evaluation.downstream.definitions import defined, names_of
from cartesian_moe_jax.evaluation.downstream.library import library_version, require_library
from cartesian_moe_jax.evaluation.downstream.measured import measure
from cartesian_moe_jax.evaluation.downstream.scorer import Scorer
from cartesian_moe_jax.evaluation.opened_model import opened_checkpoint
from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.models.language_model import LanguageModel
from cartesian_moe_jax.models.parameters import with_parameters
from cartesian_moe_jax.parallel.processes import agreed, is_first
from cartesian_moe_jax.paths import AnyPath

if TYPE_CHECKING:
    from cartesian_moe_jax.evaluation.downstream.harness import HarnessModel


class AskedTasks(NamedTuple):
    """Which tasks, and how they are asked."""

    names: str
    """Separated by commas: ``paper`` for those of its Table 2, and the harness's names."""
    shots: int | None = None
    """Solved examples before each question; None: as the paper, or the task itself, has it."""
    limit: int | None = None
    """Examples of each task, from its start; None: all."""
    data: Path | None = None
    """A folder with the tasks' rows, see ``task_data.py``; None: they come by network."""


def harness_model(
    model: LanguageModel,
    tokenizer: Tokenizer,
    config: Config,
    mesh: Mesh,
    *,
    batch_size: int,
    show: bool,
) -> "HarnessModel":
    """Return a model as ``lm_eval.evaluate`` takes it; use it where its mesh is set.

    It reads ``batch_size`` windows, or as many tokens, at once. Raises UserError where the
    harness is not installed.
    """
    require_library()
    from cartesian_moe_jax.evaluation.downstream.harness import HarnessModel

    window = config.data.seq_len
    size = {"tokens": batch_size * window, "window": window}
    known, chunk = tokenizer.vocab_size, config.model.loss_chunk
    scorer = Scorer(mesh, vocab_size=known, loss_chunk=chunk, **size)
    writer = AnswerWriter(tokenizer, mesh, **size)
    return HarnessModel(model, tokenizer, scorer, writer, show=show)


def tasks_of_run(
    workdir: AnyPath, step: int | None, asked: AskedTasks, changes: Changes
) -> Iterator[dict[str, Any]]:
    """Yield, after each task, what has been measured of a checkpoint so far.

    ``changes``: of the run's config. Raises UserError, before anything is read of the model, where
    a task is unknown or its rows cannot be had, and as ``opened_checkpoint`` does.
    """
    with contextlib.ExitStack() as stack:
        with agreed():
            require_library()
            names = names_of(asked.names)
            tasks = stack.enter_context(defined(names, asked.data, asked.shots, show=is_first()))
        opened = stack.enter_context(opened_checkpoint(workdir, step, changes)).read()
        config = opened.config
        model = harness_model(
            with_parameters(abstract_model(config.model, opened.layout), opened.parameters),
            opened.tokenizer,
            config,
            opened.mesh,
            batch_size=config.evaluation.batch_size,
            show=is_first(),
        )
        found = {
            "step": opened.step,
            "window": config.data.seq_len,
            "limit": asked.limit,
            "rows": str(asked.data or "network"),
            "lm_eval": library_version(),
            "tasks": {},
        }
        for numbers in measure(model, tasks, asked.limit):
            found["tasks"] |= numbers
            yield found
