"""Text of a corpus without tokens: what a tokenizer is trained on."""

from collections.abc import Iterator
from pathlib import Path

from cartesian_moe_jax.config import DataConfig
from cartesian_moe_jax.data.documents import BLOCK_ROWS, Documents
from cartesian_moe_jax.data.pack_settings import settings_of
from cartesian_moe_jax.data.progress import StageBar
from cartesian_moe_jax.data.sources.spec import Component, Packed, parse_corpus, spec_of
from cartesian_moe_jax.data.splits import SPLITS, SplitRule, choose_rule
from cartesian_moe_jax.errors import UserError


def training_texts(
    data: DataConfig, cache_dir: str, max_bytes: int, *, show: bool = False
) -> Iterator[str]:
    """Yield training documents of a corpus, about `max_bytes` of them; held-out text is left out.

    Of a mixture, each source gives its share. A source that has more is thinned out evenly.

    Raises:
        UserError: a source cannot be had, or is packed tokens.
    """
    for component in parse_corpus(data.corpus):
        documents = _documents(data, component, cache_dir, show=show)
        rule = choose_rule(documents, data.validation_share)
        wanted = component.weight * max_bytes
        yield from _thinned(documents, rule, component.source.options.group[1], wanted)


def _documents(data: DataConfig, component: Component, cache_dir: str, *, show: bool) -> Documents:
    source = component.source
    if isinstance(source, Packed):
        raise UserError(f"corpus {spec_of(source)!r} is tokens, not text")
    settings = settings_of(data, cache_dir, show=show)
    reading = settings.reading()
    Path(reading.folder).parent.mkdir(parents=True, exist_ok=True)
    with StageBar("reading   ", source.size(), "B", show=show) as bar:
        return source.find(reading._replace(progress=bar.advance), "").documents


def _thinned(documents: Documents, rule: SplitRule, group: str, wanted: float) -> Iterator[str]:
    """Yield every n-th block of documents, n such that they have the wanted size."""
    step = BLOCK_ROWS * max(round(len(documents) * documents.bytes_per_row() / wanted), 1)
    for start in range(0, len(documents), step):
        rows = documents.read(start, min(start + BLOCK_ROWS, len(documents)))
        for row, (own, document) in enumerate(rows, start):
            for split, part in rule.parts(own, document, row):
                if split == SPLITS[0] and group in ("", document.group):
                    yield part.text
