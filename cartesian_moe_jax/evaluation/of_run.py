"""Evaluation of a run from its directory."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from cartesian_moe_jax.cache import cache_folder
from cartesian_moe_jax.config import Config, ParallelConfig
from cartesian_moe_jax.data.parts import Part
from cartesian_moe_jax.data.prepared import prepare_data, prepare_split
from cartesian_moe_jax.data.tokenizers import Tokenizer, build_tokenizer
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.evaluation.evaluator import Evaluator
from cartesian_moe_jax.evaluation.perplexity import Parameters
from cartesian_moe_jax.evaluation.robustness import measure_robustness
from cartesian_moe_jax.models.build import abstract_parameters
from cartesian_moe_jax.models.feed_forwards import moe_layers
from cartesian_moe_jax.models.fitting_mesh import mesh_of
from cartesian_moe_jax.parallel.layouts import layout_of
from cartesian_moe_jax.parallel.processes import agreed, is_first
from cartesian_moe_jax.paths import AnyPath
from cartesian_moe_jax.runs.checkpoints import Checkpoints
from cartesian_moe_jax.runs.directory import RunDirectory
from cartesian_moe_jax.runs.together import require_one_run


class Asked(NamedTuple):
    """What a run is evaluated on; the defaults are what it validates with."""

    corpus: str = ""
    """Any corpus; empty: the run's own."""
    split: str = ""
    """See ``prepare_split``; empty: `validation` of the run's corpus, `all` of another."""
    stride: int = 0
    """Tokens from one window to the next; 0: windows do not overlap."""
    max_tokens: int | None = None
    """Predicted at most, of each source of a mixture; 0: all; None: as the run does."""


VALIDATION = Asked()


def evaluate_run(
    workdir: AnyPath, step: int | None = None, asked: Asked = VALIDATION
) -> dict[str, Any]:
    """Measure a checkpoint's perplexity; also written to evaluation.json.

    Text of any corpus is tokenised by the run's own tokenizer.

    Raises UserError if there is no run, no such checkpoint, or the data cannot be had.
    """
    with _opened(workdir, step, asked) as opened:
        measured = opened.evaluator.perplexity(opened.parameters, asked.stride)
    return _written(opened, "evaluation.json", opened.facts | measured.as_dict())


def robustness_of_run(
    workdir: AnyPath,
    step: int | None = None,
    asked: Asked = VALIDATION,
    note: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure a checkpoint's perplexity while routing goes wrong; also written to robustness.json.

    Raises UserError as ``evaluate_run`` does, and for a model without routed experts.
    """
    with _opened(workdir, step, asked) as opened:
        evaluator, parameters = opened.evaluator, opened.parameters
        records = measure_robustness(
            evaluator.config,
            lambda intervention: evaluator.perplexity(parameters, asked.stride, intervention),
            note,
        )
    return _written(opened, "robustness.json", opened.facts | {"trials": records})


def routing_use_of_run(
    workdir: AnyPath, step: int | None = None, asked: Asked = VALIDATION
) -> dict[str, Any]:
    """Measure which experts a checkpoint's tokens use; also written to routing_use.json.

    Beside what ``RoutingUse.as_dict`` tells, ``layers`` lists the depths of the MoE layers. Raises
    UserError as ``evaluate_run`` does, and for a model without routed experts.
    """
    with _opened(workdir, step, asked) as opened:
        use = opened.evaluator.routing_use(opened.parameters, asked.stride)
    if use is None:
        raise UserError("--routing_use is not defined for a model without routed experts")
    layers = moe_layers(opened.evaluator.config.model)
    return _written(opened, "routing_use.json", opened.facts | {"layers": layers} | use.as_dict())


class _Opened(NamedTuple):
    run: RunDirectory
    evaluator: Evaluator
    parameters: Parameters
    facts: dict[str, Any]
    """What is evaluated."""


@contextlib.contextmanager
def _opened(workdir: AnyPath, step: int | None, asked: Asked) -> Iterator[_Opened]:
    """Yield what evaluates a checkpoint, its mesh being set."""
    with agreed():
        run = RunDirectory.of_existing(workdir)
        tokenizer = build_tokenizer(run.read_json("tokenizer.json"))
        config, mesh = _fit_devices(_with_max_tokens(run.config(), asked.max_tokens))
        layout = layout_of(config.parallel)
    require_one_run(run, config)
    with Checkpoints(run.checkpoints, read_only=True) as checkpoints, jax.set_mesh(mesh):
        with agreed():
            step = checkpoints.choose(step)
            corpus, split, parts = _parts(config, tokenizer, asked)
            evaluator = Evaluator(config, parts, tokenizer, mesh, layout)
            wanted = abstract_parameters(evaluator.skeleton, layout, mesh)
        with agreed():
            items, _ = checkpoints.restore(step, {"parameters": wanted})
        stride = asked.stride or config.data.seq_len
        facts = {"step": step, "corpus": corpus, "split": split, "stride": stride}
        yield _Opened(run, evaluator, items["parameters"], facts)


def _written(opened: _Opened, name: str, result: dict[str, Any]) -> dict[str, Any]:
    if is_first():
        opened.run.write_json(name, result)
    return result


def _parts(config: Config, tokenizer: Tokenizer, asked: Asked) -> tuple[str, str, tuple[Part, ...]]:
    """Return the corpus, the split, and their packed tokens."""
    data = config.data
    folder = str(cache_folder(data.cache_dir, "data"))
    shows = is_first()
    if not asked.corpus and asked.split in ("", "validation"):
        prepared = prepare_data(data, tokenizer, folder, show=shows)
        return data.validation_corpus or data.corpus, "validation", prepared.validation
    corpus = asked.corpus or data.corpus
    split = asked.split or "all"
    return corpus, split, prepare_split(data, corpus, split, tokenizer, folder, show=shows)


def _with_max_tokens(config: Config, max_tokens: int | None) -> Config:
    if max_tokens is None:
        return config
    evaluation = dataclasses.replace(config.evaluation, max_tokens=max_tokens)
    return dataclasses.replace(config, evaluation=evaluation)


def _fit_devices(config: Config) -> tuple[Config, Mesh]:
    """Return the run's mesh where it fits the devices here, else all of them on the data axis."""
    try:
        return config, mesh_of(config)
    except UserError:
        config = dataclasses.replace(config, parallel=ParallelConfig())
        return config, mesh_of(config)
