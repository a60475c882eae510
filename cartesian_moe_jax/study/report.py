"""The report of a study: Markdown with pictures, and the same as one page."""

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.paths import AnyPath, entries, is_remote, reported, write_atomically
from cartesian_moe_jax.study.comparison import Comparison, compare
from cartesian_moe_jax.study.page import page
from cartesian_moe_jax.study.record import Record
from cartesian_moe_jax.study.section import Picture, Section
from cartesian_moe_jax.study.sections.curves import curves
from cartesian_moe_jax.study.sections.differences import differences
from cartesian_moe_jax.study.sections.load import load
from cartesian_moe_jax.study.sections.matching import matching
from cartesian_moe_jax.study.sections.overview import about_list, limits
from cartesian_moe_jax.study.sections.pairs import pairs
from cartesian_moe_jax.study.sections.quality import quality
from cartesian_moe_jax.study.sections.robustness import robustness
from cartesian_moe_jax.study.sections.runs import runs
from cartesian_moe_jax.study.sections.shared_expert import shared_expert
from cartesian_moe_jax.study.sections.tuning import tuning
from cartesian_moe_jax.study.tables import plain

PACKAGES = ("matplotlib", "markdown", "scipy")
TITLE = "Comparison of the methods"
PICTURES = "pictures"
SECTIONS: Sequence[Callable[[Comparison], Section | None]] = (
    limits,
    quality,
    differences,
    shared_expert,
    robustness,
    curves,
    tuning,
    load,
    pairs,
    matching,
    runs,
)


def require_report_packages() -> None:
    """Raise UserError, before anything is trained, if a package that the report needs is absent."""
    absent = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if absent:
        names = " ".join(absent)
        raise UserError(f"the report needs the packages {names} (pip install {names})")


def write_report(
    folder: AnyPath, records: Sequence[Record], bases: Sequence[str], about: Mapping[str, str]
) -> list[AnyPath]:
    """Write ``report.md``, its ``pictures/*.svg``, and ``report.html``, which needs no other file.

    ``bases`` are the variants that others are compared with, of which the first is the reference
    of all sections; ``about`` is label -> text, shown at the top. Returns the written files.
    Raises UserError if compared runs differ in their setting, a package is missing, or a file
    cannot be written.
    """
    require_report_packages()
    study = compare(records, bases)
    sections = [section for make in SECTIONS if (section := make(study)) is not None]
    pictures = {
        f"{PICTURES}/{block.name}.svg": block.svg
        for section in sections
        for block in section.blocks
        if isinstance(block, Picture)
    }
    text = document(sections, about)
    contents = pictures | {"report.md": text, "report.html": page(TITLE, text, pictures)}
    if not is_remote(folder):
        with reported("made", folder):
            (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomically(folder / name, content)
    _remove_pictures_not_in(folder, pictures)
    return [folder / name for name in contents]


def _remove_pictures_not_in(folder: AnyPath, names: Iterable[str]) -> None:
    """Remove what an earlier report left, which the text no longer names."""
    kept = set(names)
    for file in entries(folder / PICTURES):
        if file.suffix == ".svg" and f"{PICTURES}/{file.name}" not in kept:
            with reported("removed", file):
                file.unlink()


def document(sections: Sequence[Section], about: Mapping[str, str]) -> str:
    """Return the sections as Markdown."""
    parts = [f"# {TITLE}", about_list(about)]
    for section in sections:
        parts.append(f"## {section.title}")
        parts.extend(_block(block) for block in section.blocks)
    return "\n\n".join(part for part in parts if part) + "\n"


def _block(block: str | Picture) -> str:
    if isinstance(block, str):
        return block
    # The page makes a figure of a picture and the paragraph behind it.
    return f"![{plain(block.alt)}]({PICTURES}/{block.name}.svg)\n\n*{plain(block.caption)}*"
