"""A run opened to be evaluated: its checkpoint on the devices, and the text beside it."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from cartesian_moe_jax.cache import cache_folder
from cartesian_moe_jax.config import Config
from cartesian_moe_jax.data.parts import Part, content_hash
from cartesian_moe_jax.data.prepared import prepare_data, prepare_split
from cartesian_moe_jax.data.splits import EVERYTHING, SPLITS
from cartesian_moe_jax.data.tokenizers import Tokenizer, build_tokenizer
from cartesian_moe_jax.evaluation.changeable import Changes
from cartesian_moe_jax.evaluation.evaluator import Evaluator
from cartesian_moe_jax.evaluation.perplexity import Parameters
from cartesian_moe_jax.evaluation.run_config import changed, mesh_here, with_batch_of
from cartesian_moe_jax.models.build import abstract_model, abstract_parameters
from cartesian_moe_jax.parallel.layouts import layout_of
from cartesian_moe_jax.parallel.processes import agreed, is_first
from cartesian_moe_jax.paths import AnyPath
from cartesian_moe_jax.runs.checkpoint_mesh import batch_parts_of_checkpoint
from cartesian_moe_jax.runs.checkpoints import Checkpoints
from cartesian_moe_jax.runs.directory import RunDirectory
from cartesian_moe_jax.runs.together import require_one_run

Note = Callable[[str], None]


class Asked(NamedTuple):
    """What a run is evaluated on, and how; the defaults are what it validates with."""

    corpus: str = ""
    """Any corpus; empty: the run's own."""
    split: str = ""
    """See ``prepare_split``; empty: `validation` of the run's corpus, `all` of another."""
    stride: int = 0
    """Tokens from one window to the next; 0: windows do not overlap."""
    max_tokens: int | None = None
    """Predicted at most, of each source of a mixture; 0: all; None: as the run does."""
    changes: Changes = {}  # noqa: RUF012  not changed
    """Of the run's config; see run_config.py."""

    def of(self, config: Config) -> Config:
        """Return a run's config with what is asked for; raises UserError if it is not allowed."""
        changes = dict(self.changes)
        if self.max_tokens is not None:
            most = {"max_tokens": self.max_tokens}
            changes["evaluation"] = {**changes.get("evaluation", {}), **most}
        return changed(config, changes)


class Opened(NamedTuple):
    """What evaluates a checkpoint."""

    evaluator: Evaluator
    parameters: Parameters
    facts: dict[str, Any]
    """What is evaluated."""


class _Text(NamedTuple):
    corpus: str
    split: str
    parts: tuple[Part, ...]
    data_hash: str
    is_the_runs: bool
    """The hash is to be that of the data which the run was trained on."""


@contextlib.contextmanager
def opened(workdir: AnyPath, step: int | None, asked: Asked, note: Note) -> Iterator[Opened]:
    """Yield what evaluates a checkpoint, its mesh being set.

    ``note`` is told where the text is not what the run was trained and validated with.
    """
    with agreed():
        run = RunDirectory.of_existing(workdir)
        tokenizer = build_tokenizer(run.read_json("tokenizer.json"))
        config, mesh = mesh_here(asked.of(run.config()), asked.changes)
        layout = layout_of(config.parallel)
    require_one_run(run, config)
    with Checkpoints(run.checkpoints, read_only=True) as checkpoints, jax.set_mesh(mesh):
        with agreed():
            step = checkpoints.choose(step)
            text = _text(config, tokenizer, asked)
            wanted = abstract_parameters(abstract_model(config.model, layout), layout, mesh)
        with agreed():
            items, progress = checkpoints.restore(step, {"parameters": wanted})
        known = progress.get("data_hash")  # of a converted checkpoint nobody knows
        if text.is_the_runs and known not in (None, text.data_hash):
            note(_other_data(text.corpus, step, known, text.data_hash))
        parts = batch_parts_of_checkpoint(run, step)
        config = with_batch_of(config, asked.changes, mesh, parts, trained=known is not None)
        evaluator = Evaluator(config, text.parts, tokenizer, mesh, layout)
        stride = asked.stride or config.data.seq_len
        facts = {"step": step, "corpus": text.corpus, "split": text.split, "stride": stride}
        yield Opened(evaluator, items["parameters"], facts | {"data_hash": text.data_hash})


def _text(config: Config, tokenizer: Tokenizer, asked: Asked) -> _Text:
    data, shows = config.data, is_first()
    folder = str(cache_folder(data.cache_dir, "data"))
    split = asked.split or (EVERYTHING if asked.corpus else SPLITS[1])
    if not asked.corpus and split in SPLITS:
        prepared = prepare_data(data, tokenizer, folder, show=shows)
        parts = prepared.train if split == SPLITS[0] else prepared.validation
        corpus = data.corpus if split == SPLITS[0] else data.validation_corpus or data.corpus
        return _Text(corpus, split, parts, prepared.content_hash, True)
    corpus = asked.corpus or data.corpus
    parts = prepare_split(data, corpus, split, tokenizer, folder, show=shows)
    return _Text(corpus, split, parts, content_hash(parts), False)


def _other_data(corpus: str, step: int, known: str, found: str) -> str:
    return (
        f"note: {corpus!r} is not the data of the run: the hash of that was {known[:12]} at step "
        f"{step}, here it is {found[:12]}, so that numbers compare with none of the run's own"
    )
