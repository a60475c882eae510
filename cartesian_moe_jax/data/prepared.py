"""Data ready to train and evaluate on: the packed parts of a corpus, with their weights."""

import dataclasses
from collections.abc import Sequence

from cartesian_moe_jax.config import DataConfig
from cartesian_moe_jax.data.pack_settings import settings_of
from cartesian_moe_jax.data.packed import PackedCorpus
from cartesian_moe_jax.data.packed_cache import open_anywhere, pack
from cartesian_moe_jax.data.parts import Part, broken_lines, content_hash, describe
from cartesian_moe_jax.data.sources.spec import Component, Packed, parse_corpus
from cartesian_moe_jax.data.splits import EVERYTHING, SPLITS
from cartesian_moe_jax.data.tokenizers import Tokenizer, require_same_tokenizer


@dataclasses.dataclass(frozen=True)
class PreparedData:
    """What a run is trained on and validated with.

    Attributes:
        spec: the corpus as it was asked for.
        tokenizer: what packed all of it.
        train: the parts that batches are drawn from.
        validation: the parts that are predicted, those without text left out.
    """

    spec: str
    tokenizer: Tokenizer
    train: tuple[Part, ...]
    validation: tuple[Part, ...]

    @property
    def content_hash(self) -> str:
        """The sha256 over the tokens and weights of all parts."""
        return content_hash((*self.train, *self.validation))

    def lines(self) -> list[str]:
        """Describe it for people: a line for each part, and for sources with broken lines."""
        splits = (("train", self.train), ("validation", self.validation))
        lines = [f"{split:10}  {line}" for split, parts in splits for line in describe(parts)]
        return lines + broken_lines((*self.train, *self.validation))


def prepare_data(
    data: DataConfig, tokenizer: Tokenizer, cache_dir: str, *, show: bool = False
) -> PreparedData:
    """Return the data of a config, preparing what the cache does not hold.

    Validation text is `data.validation_corpus` if it is set, else what each source holds out.

    Raises:
        UserError: a source cannot be had, or the cache not be written.
    """
    components = parse_corpus(data.corpus)
    # Where validation text comes from elsewhere, nothing needs to be held out.
    split = SPLITS[0] if data.validation_corpus else ""
    packed = [_packed(data, c, tokenizer, cache_dir, split, show=show) for c in components]
    train = _parts(components, packed, SPLITS[0])
    if data.validation_corpus:
        validation = prepare_split(
            data, data.validation_corpus, EVERYTHING, tokenizer, cache_dir, show=show
        )
    else:
        validation = _parts(components, packed, SPLITS[1])
    with_text = [part for part in validation if len(part.tokens) >= 2]
    total = sum(part.weight for part in with_text)
    weighted = tuple(part._replace(weight=part.weight / total) for part in with_text)
    return PreparedData(data.corpus, tokenizer, train, weighted)


def prepare_split(
    data: DataConfig,
    corpus: str,
    split: str,
    tokenizer: Tokenizer,
    cache_dir: str,
    *,
    show: bool = False,
) -> tuple[Part, ...]:
    """Return one split of any corpus, preparing it if the cache does not hold it.

    Args:
        data: how it is read; its own corpus does not matter.
        corpus: see `sources.spec`.
        split: `train` or `validation` as in training, `all` for the whole of it, or a split (or
            split expression) of a tensorflow-datasets dataset.
        tokenizer: turns documents into token ids.
        cache_dir: where packed tokens lie.
        show: show progress bars.

    Raises:
        UserError: a source cannot be had, or has no such split.
    """
    whole = "" if split in SPLITS else split
    components = parse_corpus(corpus)
    packed = [_packed(data, c, tokenizer, cache_dir, whole, show=show) for c in components]
    return _parts(components, packed, split)


def _packed(
    data: DataConfig,
    component: Component,
    tokenizer: Tokenizer,
    cache_dir: str,
    split: str = "",
    *,
    show: bool,
) -> PackedCorpus:
    source = component.source
    if isinstance(source, Packed):
        corpus = open_anywhere(source.place)
        identities = corpus.metadata["tokenizer"], tokenizer.identity()
        require_same_tokenizer(identities[0], source.place, identities[1], "config.data.tokenizer")
        return corpus
    settings = settings_of(data, cache_dir, show=show)
    return pack(source, tokenizer, settings, split)


def _parts(
    components: Sequence[Component], packed: Sequence[PackedCorpus], split: str
) -> tuple[Part, ...]:
    parts = []
    for component, corpus in zip(components, packed, strict=True):
        group = component.source.options.group[1]
        # A domain may have too few documents for one to be held out.
        if corpus.has(split, group) or not (group and split == SPLITS[1]):
            tokens = corpus.split(split, group)
            parts.append(Part(component.name, component.weight, tokens))
    return tuple(parts)
