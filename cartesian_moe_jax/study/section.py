"""A part of the report: Markdown and pictures, in order."""

from collections.abc import Sequence
from typing import NamedTuple


class Picture(NamedTuple):
    """A drawing, with the words that go with it."""

    name: str
    """Of the file, without its ending."""
    alt: str
    """What stands in its place for those who cannot see it."""
    caption: str
    """What is shown, with units; plain text."""
    svg: bytes


class Section(NamedTuple):
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[str | Picture]
    """Markdown, or pictures; at least one."""
