"""Where a corpus lies, said so that it is the same from any working folder."""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping

from cartesian_moe_jax.data.sources.local_files import LocalFiles
from cartesian_moe_jax.data.sources.source import spec_of
from cartesian_moe_jax.data.sources.spec import PLUS, WEIGHT, Packed, parse_source
from cartesian_moe_jax.data.sources.tfds import Tfds
from cartesian_moe_jax.paths import absolute, as_path, is_remote


def absolute_corpus(spec: str) -> str:
    """Return a corpus with absolute paths in place of relative ones; weights stay as written.

    Raises UserError where it is no corpus.
    """
    said = " + ".join(map(_absolute_component, re.split(PLUS, spec)))
    # A working folder with a comma, or a plus, cannot be said.
    same = [len(re.split(f"{PLUS.pattern}|,", each)) for each in (spec, said)]
    return said if same[0] == same[1] else spec


def absolute_path(text: str) -> str:
    """Return a relative local path as an absolute one; others, as ~ and gs://, as they are."""
    if not text or text.startswith("~") or is_remote(path := as_path(text)):
        return text
    return text if path.is_absolute() else os.fspath(absolute(path))


def _absolute_component(part: str) -> str:
    weight = WEIGHT.fullmatch(part)
    source = parse_source(weight[2] if weight else part)
    place = _PLACES.get(source.kind, lambda place: place)(source.place)
    if place == source.place:
        return part.strip()
    said = spec_of(dataclasses.replace(source, place=place))
    return f"{weight[1]}*{said}" if weight else said


def _of_files(place: str) -> str:
    return ",".join(absolute_path(pattern.strip()) for pattern in place.split(","))


def _of_dataset(place: str) -> str:
    # Else it is a name in the catalogue.
    return absolute_path(place) if place and as_path(place).is_dir() else place


_PLACES: Mapping[str, Callable[[str], str]] = {
    LocalFiles.kind: _of_files,
    Packed.kind: absolute_path,
    Tfds.kind: _of_dataset,
}
