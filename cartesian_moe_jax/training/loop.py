"""Training from a config to a finished run directory, top to bottom."""

from typing import Any, NamedTuple

import jax

from cartesian_moe_jax.cache import cache_folder
from cartesian_moe_jax.config import Config
from cartesian_moe_jax.data.prepared import PreparedData, prepare_data
from cartesian_moe_jax.data.tokenizers import (
    TOKENIZERS,
    Tokenizer,
    build_tokenizer,
    require_same_tokenizer,
    resolve_tokenizer,
)
from cartesian_moe_jax.models.vocabulary import with_vocabulary
from cartesian_moe_jax.parallel.processes import agreed, is_first, require_same, say
from cartesian_moe_jax.paths import AnyPath, as_path, reported
from cartesian_moe_jax.runs.checkpoints import ARRAYS, Checkpoints
from cartesian_moe_jax.runs.compilation_cache import use_compilation_cache
from cartesian_moe_jax.runs.directory import RunDirectory
from cartesian_moe_jax.runs.together import begin, held, require_one_run
from cartesian_moe_jax.training.divergence import require_finite_state, require_finite_validation
from cartesian_moe_jax.training.initial import Initial
from cartesian_moe_jax.training.interruption import StopRequest
from cartesian_moe_jax.training.notes import notes
from cartesian_moe_jax.training.prolonging import has_new_plan, kept_steps
from cartesian_moe_jax.training.recorder import Recorder
from cartesian_moe_jax.training.result import make_result
from cartesian_moe_jax.training.schedule import fork_steps
from cartesian_moe_jax.training.state import TrainState
from cartesian_moe_jax.training.trainer import Trainer, check_trainable


class Outcome(NamedTuple):
    """How ``train`` ended."""

    result: dict[str, Any] | None = None
    """What result.json holds; None if the run was stopped before its end."""
    was_done: bool = False
    """The run had ended before."""
    stopped_at: int | None = None
    """The step whose checkpoint a stopped run continues from."""
    signal: int | None = None
    """The signal that stopped it."""


def train(config: Config, workdir: AnyPath, data: PreparedData | None = None) -> Outcome:
    """Train, or continue, the run in ``workdir`` until its last step, and evaluate it.

    ``data`` is what ``prepare`` returns for the config, if the caller has it.
    Raises UserError for what the user can mend: the config, the data, the folder, the disk, a
    second process in the folder, and DivergedError, which is one, where the loss is no number.
    """
    # Before anything is compiled.
    use_compilation_cache(cache_folder(config.training.compilation_cache, "xla"))
    with agreed():
        tokenizer = tokenizer_of(config, RunDirectory(workdir))
        config = with_vocabulary(config, tokenizer.vocab_size)
        run = RunDirectory.checked(workdir, config)
    require_one_run(run, config)
    with agreed():
        goes_on = has_new_plan(run, config)
    if run.has("result.json") and not goes_on:
        return Outcome(run.read_json("result.json"), was_done=True)

    with agreed():
        check_trainable(config)
        initial = initial_of(config, tokenizer, run)
    require_same(
        f"{initial and initial.step}", "the newest step of config.training.initial differs"
    )
    with agreed():
        trainer = Trainer(config, data or prepare(config, tokenizer))
    require_same(trainer.data.content_hash[:12], "config.data.corpus has several contents")
    with held(run):
        begin(run, config, tokenizer.description())
        return _train_on(run, trainer, initial)


def _train_on(run: RunDirectory, trainer: Trainer, initial: Initial | None) -> Outcome:
    """Train from the newest checkpoint, or the start, to the end or a signal."""
    config = trainer.config
    forks = fork_steps(config.optimizer, config.training.steps)
    with (
        jax.set_mesh(trainer.mesh),
        StopRequest() as stop,
        Checkpoints(run.checkpoints, config.training.keep_checkpoints, always=forks) as checkpoints,
    ):
        state, past = resume_or_create(trainer, checkpoints, initial)
        with Recorder(trainer, run, int(state.step), writes=is_first()) as recorder:
            state = run_steps(trainer, state, past, checkpoints, recorder, stop)
            if int(state.step) < config.training.steps:
                return Outcome(stopped_at=int(state.step), signal=stop.signal)
            checkpoints.wait()
            validation = trainer.evaluator.perplexity(state.parameters)
            require_finite_validation(validation.mean.loss, checkpoints)
            seconds = past["training_seconds"] + recorder.speed.seconds
            result = make_result(trainer, state.parameters, validation, recorder.speed, seconds)
            result["initial"] = past.get("initial")
            # Last: a run that is cut short before records it when it goes on, and once.
            recorder.validation(config.training.steps, validation)
    if is_first():
        run.write_json("result.json", result)
    return Outcome(result)


def tokenizer_of(config: Config, run: RunDirectory) -> Tokenizer:
    """Return the tokenizer of a run: of one that was begun, its own, wherever it came from.

    Raises UserError if the config now names another one.
    """
    setting = config.data.tokenizer
    if not run.has("tokenizer.json"):
        return resolve_tokenizer(setting, config.data.end_of_text)
    kept = build_tokenizer(run.read_json("tokenizer.json"))
    with reported("read", as_path(setting)):
        is_there = setting in TOKENIZERS or as_path(setting).exists()
    if is_there:
        given = resolve_tokenizer(setting, config.data.end_of_text)
        where = f"config.data.tokenizer={setting}"
        require_same_tokenizer(kept.identity(), str(run.path), given.identity(), where)
    return kept


def prepare(config: Config, tokenizer: Tokenizer) -> PreparedData:
    """Return the data, preparing first what the cache does not hold.

    The first process of a machine prepares; the others find its folders when they are complete.
    """
    folder = str(cache_folder(config.data.cache_dir, "data"))
    data = prepare_data(config.data, tokenizer, folder, show=is_first())
    say("\n".join([*data.lines(), *notes(config, data)]), error=True)
    return data


def initial_of(config: Config, tokenizer: Tokenizer, run: RunDirectory) -> Initial | None:
    """Return what a run begins with; None: its seed, or the checkpoint that it has."""
    if not config.training.initial or kept_steps(run):
        return None
    initial = Initial(config, tokenizer)
    say("\n".join(initial.lines()), error=True)
    return initial


def resume_or_create(
    trainer: Trainer, checkpoints: Checkpoints, initial: Initial | None = None
) -> tuple[TrainState, dict[str, Any]]:
    """Return the state of the newest checkpoint, or a new one, and the progress until then.

    ``data_position`` is the number of global batches taken, ``training_seconds`` the time, and
    ``initial`` says which parameters the run began with.
    """
    newest = checkpoints.newest()
    with agreed():
        if newest is not None:
            return trainer.restore_state(checkpoints, newest)
        if initial is not None:
            state = trainer.create_state_of(initial.read(trainer.abstract.parameters))
        else:
            state = trainer.create_state()
    facts = initial and initial.facts
    return state, {"data_position": 0, "training_seconds": 0.0, "initial": facts}


def run_steps(
    trainer: Trainer,
    state: TrainState,
    past: dict[str, Any],
    checkpoints: Checkpoints,
    recorder: Recorder,
    stop: StopRequest,
) -> TrainState:
    """Run steps until the last one or a stop request; the state returned has a checkpoint.

    Raises DivergedError, and saves nothing, when a record or a checkpoint is due after a step
    whose loss or gradient was not finite.
    """
    config = trainer.config
    first, last = int(state.step), config.training.steps
    due = {last, *fork_steps(config.optimizer, last)}
    batches = trainer.batches(past["data_position"])
    for step in range(first + 1, last + 1):
        recorder.before(step, state)
        state, report = trainer.step(state, trainer.place(next(batches)))
        if recorder.step(step, report):
            require_finite_state(state, checkpoints)
        if _is_due(step, config.evaluation.every) and step < last:
            jax.block_until_ready(state)
            recorder.speed.pause()
            recorder.validation(step, trainer.evaluator.perplexity(state.parameters))
        stopping = stop.is_due(step)
        if stopping or step in due or _is_due(step, config.training.checkpoint_every):
            require_finite_state(state, checkpoints)
            progress = {
                "data_position": batches.position,
                "data_hash": trainer.data.content_hash,
                "tokenizer": trainer.data.tokenizer.identity(),
                "training_seconds": past["training_seconds"] + recorder.speed.seconds,
                "initial": past.get("initial"),
            }
            recorder.flush()
            checkpoints.save(step, {name: getattr(state, name) for name in ARRAYS}, progress)
        if stopping:
            break
    batches.close()
    return state


def _is_due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0
