"""A run opened to be evaluated: its checkpoint on the devices, and the text beside it."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from cartesian_moe_jax.cache import cache_folder
from cartesian_moe_jax.config import Config
from cartesian_moe_jax.data.parts import Part, content_hash
from cartesian_moe_jax.data.prepared import prepare_data, prepare_split
from cartesian_moe_jax.data.splits import EVERYTHING, SPLITS
from cartesian_moe_jax.data.tokenizers import Tokenizer
from cartesian_moe_jax.evaluation.changeable import Changes
from cartesian_moe_jax.evaluation.evaluator import Evaluator
from cartesian_moe_jax.evaluation.opened_model import opened_checkpoint
from cartesian_moe_jax.evaluation.perplexity import Parameters
from cartesian_moe_jax.parallel.processes import agreed, is_first
from cartesian_moe_jax.paths import AnyPath

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

    def all_changes(self) -> Changes:
        """Return all changes of the run's config that are asked for."""
        if self.max_tokens is None:
            return self.changes
        evaluation = self.changes.get("evaluation", {})
        return {**self.changes, "evaluation": {**evaluation, "max_tokens": self.max_tokens}}


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
    with opened_checkpoint(workdir, step, asked.all_changes()) as checkpoint:
        with agreed():
            text = _text(checkpoint.config, checkpoint.tokenizer, asked)
        model = checkpoint.read()
        known = model.data_hash
        if text.is_the_runs and known not in (None, text.data_hash):
            note(_other_data(text.corpus, model.step, known, text.data_hash))
        evaluator = Evaluator(model.config, text.parts, model.tokenizer, model.mesh, model.layout)
        stride = asked.stride or model.config.data.seq_len
        facts = {"step": model.step, "corpus": text.corpus, "split": text.split, "stride": stride}
        yield Opened(evaluator, model.parameters, facts | {"data_hash": text.data_hash})


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
