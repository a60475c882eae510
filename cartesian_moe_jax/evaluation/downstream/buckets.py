"""Sizes that programs are compiled for: few, and none much larger than what is asked of it."""

SHORTEST = 16


def bucket(length: int, most: int) -> int:
    """Return the least of 16, 24, 32, 48, 64, ... that is not below ``length``, at most ``most``.

    ``length`` is at most ``most``.
    """
    size = SHORTEST
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return min(size, most)


def rows_of(tokens: int, length: int, wanted: int, parts: int) -> int:
    """Return how many rows of ``length`` make up a batch of some ``tokens``.

    A multiple of ``parts``, at least one for each, and not many more than are ``wanted``.
    """
    enough = 1 << max(0, wanted - 1).bit_length()
    rows = min(max(1, tokens // length), enough)
    return max(1, rows // parts) * parts
