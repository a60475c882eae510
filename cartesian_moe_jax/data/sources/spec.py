"""A corpus is a value, written as a string.

python_stdlib                         the sources of the running Python: nothing to download
text:PATH[,PATH...]                   .txt and .jsonl, plain or .gz, .xz, .zst: files, folders,
                                      globs, also remote ones (gs://...)
tfds:NAME or tfds:FOLDER              a tensorflow-datasets catalogue entry, or a prepared folder
packed:FOLDER                         what `prepare` wrote, here or elsewhere (gs://...)

,field=NAME                           the field that holds the text (default: text)
,where=FIELD:VALUE                    only the documents with that value, e.g. one domain
,split=EXPRESSION                     tfds only: what to read, e.g. train[:10%]
,name=NAME                            what reports call it

0.7*text:/books + 0.3*tfds:c4/en      a mixture: WEIGHT*SOURCE + WEIGHT*SOURCE ...
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from cartesian_moe_jax.data.sources.local_files import LocalFiles, PythonStdlib
from cartesian_moe_jax.data.sources.source import Options, Source, spec_of
from cartesian_moe_jax.data.sources.tfds import Tfds
from cartesian_moe_jax.errors import UserError, lookup, nearest


class Component(NamedTuple):
    """One source of a mixture, and its share of the training tokens."""

    weight: float
    source: "Source | Packed"

    @property
    def name(self) -> str:
        """What reports call it."""
        options = self.source.options
        return options.name or options.group[1] or spec_of(self.source)


@dataclasses.dataclass(frozen=True)
class Packed:
    """A folder of packed tokens, wherever it was made; `packed_cache` opens it."""

    place: str
    options: Options = Options()
    kind: ClassVar[str] = "packed"
    allowed: ClassVar[tuple[str, ...]] = ("where", "name")


SOURCES: Mapping[str, Any] = {s.kind: s for s in (PythonStdlib, LocalFiles, Tfds, Packed)}
OPTIONS = tuple(field.name for field in dataclasses.fields(Options))
_OPTION = re.compile(r"(\w+)=(.*)")
PLUS, WEIGHT = re.compile(r"\s\+\s"), re.compile(r"\s*([0-9.eE+-]+)\s*\*\s*(.*)")
"""Between the sources of a mixture, and before each."""


def parse_source(spec: str) -> Any:
    """Make a source from `KIND` or `KIND:PLACE,OPTION=VALUE`; see the module's docstring.

    Raises:
        UserError: the kind or an option is unknown, or its argument is missing or not wanted.
    """
    kind, _, argument = spec.strip().partition(":")
    source = lookup(SOURCES, kind, "data.corpus")
    places, options = [], {}
    for item in argument.split(","):
        match = _OPTION.fullmatch(item.strip())
        if match is None or (match[1] not in OPTIONS and Path(item).exists()):
            places.append(item)
        elif match[1] in options:
            raise UserError(f"corpus {spec!r} has {match[1]}= twice")
        else:
            options[match[1]] = match[2]
    for name in options:
        if name not in source.allowed:
            allowed = ", ".join(source.allowed)
            close = nearest(name, source.allowed)
            raise UserError(f"corpus {spec!r}: {kind} takes no {name}=; allowed: {allowed}{close}")
    if source is Packed and not "".join(places).strip():
        raise UserError("corpus 'packed:' needs the folder of packed tokens")
    if "where" in options and not all(Options(where=options["where"]).group):
        raise UserError(f"corpus {spec!r}: where={options['where']} must be FIELD:VALUE")
    return source(",".join(places), Options(**options))


def parse_corpus(spec: str) -> tuple[Component, ...]:
    """Make the components of a corpus: one source, or `WEIGHT*SOURCE + WEIGHT*SOURCE ...`.

    Weights are shares of the training tokens; they need not add up to 1.

    Raises:
        UserError: a source is wrong, or a weight of a mixture is missing or not positive.
    """
    parts = re.split(PLUS, spec)
    if len(parts) == 1 and not WEIGHT.fullmatch(spec):
        return (Component(1.0, parse_source(spec)),)
    components = []
    for part in parts:
        match = WEIGHT.fullmatch(part)
        weight = _number(match[1]) if match else None
        if weight is None or not 0 < weight < math.inf:
            raise UserError(
                f"data.corpus: {part.strip()!r} of a mixture must be WEIGHT*SOURCE, with a weight "
                "above 0, as in 0.7*text:/books + 0.3*tfds:c4/en"
            )
        components.append(Component(weight, parse_source(match[2])))
    total = sum(component.weight for component in components)
    return tuple(Component(c.weight / total, c.source) for c in components)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
