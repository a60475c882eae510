"""Marks in a stream of tokens: how much text lies before them, as it was counted in packing.

They lie at the ends of documents, so that what is between them decodes by itself.
"""

import bisect
from collections.abc import Iterable, Sequence

from cartesian_moe_jax.data.text_size import TextSize

SPACING, GROWTH = 4096, 16
"""So many tokens apart, and at least a 16th of all before: a few hundred in a very long stream."""


class Marks:
    """Sizes of a stream's beginnings, in order."""

    def __init__(self, sizes: Iterable[Sequence[int]] = ()):
        """Keep those of the sizes that are far enough apart."""
        self._sizes: list[TextSize] = []
        for size in sizes:
            self.add(TextSize(*size))

    @classmethod
    def from_text(cls, text: str) -> "Marks":
        """Undo ``to_text``; raises ValueError or TypeError for another text."""
        marks = cls()
        marks._sizes = [TextSize._make(map(int, size.split(":"))) for size in text.split()]
        return marks

    def to_text(self) -> str:
        """Return them in one line: TOKENS:BYTES:WORDS, separated by spaces."""
        return " ".join(":".join(map(str, size)) for size in self._sizes)

    def add(self, size: TextSize) -> None:
        """Keep a size if it is far enough behind the last one."""
        last = self._sizes[-1].tokens if self._sizes else 0
        if size.tokens - last >= max(SPACING, last // GROWTH):
            self._sizes.append(size)

    def around(self, tokens: int, whole: TextSize) -> tuple[TextSize, TextSize]:
        """Return the last mark within the first ``tokens``, and the next one (or the ``whole``)."""
        sizes = [TextSize(), *self._sizes, whole]
        after = bisect.bisect_right(sizes, tokens, hi=len(sizes) - 1, key=lambda size: size.tokens)
        return sizes[after - 1], sizes[after]

    def behind(self, start: TextSize) -> list[TextSize]:
        """Return them as they are behind the ``start`` of a longer stream."""
        return [start.plus(size) for size in self._sizes]
