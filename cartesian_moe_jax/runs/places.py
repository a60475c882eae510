"""Where what a run reads lies, as its folder keeps it."""

import dataclasses

from cartesian_moe_jax.config import Config
from cartesian_moe_jax.data.sources.places import absolute_corpus, absolute_path
from cartesian_moe_jax.data.tokenizers.resolve import NAMED
from cartesian_moe_jax.paths import as_path, is_remote

CORPORA = ("corpus", "validation_corpus")


def with_absolute_paths(config: Config) -> Config:
    """Return the config with local paths that lead to the same from any working folder."""
    data = config.data
    found = {name: absolute_path(getattr(data, name)) for name in ("cache_dir", "tfds_dir")}
    for name in CORPORA:
        found[name] = absolute_corpus(corpus) if (corpus := getattr(data, name)) else ""
    if _is_local_file(data.tokenizer):
        found["tokenizer"] = absolute_path(data.tokenizer)
    cache = absolute_path(config.training.compilation_cache)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(data, **found),
        training=dataclasses.replace(config.training, compilation_cache=cache),
    )


def other_text(kept: Config, config: Config) -> list[str]:
    """List the corpora that two configs do not name in common, as ``data.corpus: A -> B``."""
    both = with_absolute_paths(kept).data, with_absolute_paths(config).data
    values = {name: [getattr(data, name) for data in both] for name in CORPORA}
    return [f"data.{name}: {a!r} -> {b!r}" for name, (a, b) in values.items() if a != b]


def with_text_of(config: Config, kept: Config) -> Config:
    """Return the config with the corpora that ``kept`` names, and its tokenizer if that is gone.

    For a run with a checkpoint: what is named now may be other text, which is not to be trained
    on. Where both name the same, the config's absolute paths are kept.
    """
    found = {}
    if other_text(kept, config):
        found = {name: getattr(kept.data, name) for name in CORPORA}
    if not _is_local_file(config.data.tokenizer):
        found["tokenizer"] = kept.data.tokenizer  # the run goes on with its copy
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **found))


def _is_local_file(tokenizer: str) -> bool:
    is_name = tokenizer in NAMED
    return not is_name and not is_remote(path := as_path(tokenizer)) and path.exists()
