"""The tiles into which TPU kernels cut grouped matmuls, by what fits into the memory on chip."""

import itertools
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from cartesian_moe_jax.platform import device_kind, target_device

LANES = 128
MATRIX_UNIT = 256
"""The side of the largest there are, v6e's: what fills no whole one takes its time all the same."""
STRIP = 128
"""Rows that are computed at a time where a tile's are not all of one expert."""
HEIGHTS = (512, 256, 128)
"""Of tiles, in rows; multiples of STRIP."""

FLOAT32 = 4
"""Bytes of each number where sums are."""

MIB = 2**20
ON_CHIP: Mapping[str, int] = MappingProxyType(
    {"TPU v5 lite": 128, "TPU v5": 64, "TPU v5p": 64, "TPU v6 lite": 128, "TPU7x": 64}
)
"""MiB of the vector memory of a core, by kind of device."""
LEAST_ON_CHIP = 16


class Product(NamedTuple):
    """What a kernel computes whose results are rows: sums of rows times weights, finished."""

    rows: int
    experts: int
    summed: int
    """Width of the rows that come in."""
    outputs: int
    operands: int
    """Arrays of rows that come in."""
    weights: int
    """Arrays of weights; as many products."""
    sums: int
    """Into which products are added."""
    beside: int
    """Arrays of rows that only finishing takes."""
    results: int
    element: int
    """Bytes of each number."""


class WeightGradient(NamedTuple):
    """What a kernel computes that sums over rows."""

    rows: int
    experts: int
    inputs: int
    outputs: int
    element: int
    """Bytes of each number of the operands."""
    result_element: int
    """And of the result."""


class Tile(NamedTuple):
    """Sizes of a piece of a product, or of a weight gradient, whose sum is over rows."""

    rows: int
    inputs: int
    """Of a product, along the sum."""
    outputs: int


class Fit(NamedTuple):
    """How good a tile is: the least is the best."""

    moved: float
    """Bytes between the chip's memory and that of the core."""
    steps: int
    tile: Tile


def on_chip() -> int:
    """The bytes of vector memory of one core of the TPU that programs are compiled for."""
    return ON_CHIP.get(device_kind(), LEAST_ON_CHIP) * MIB


def cores() -> int:
    """The cores that share the work of one device of that TPU."""
    return getattr(target_device(), "num_cores", None) or 1


def height_of(rows: int, experts: int) -> int:
    """The rows of a tile, for groups of rows / experts rows on average.

    Tall tiles keep the matrix units busy for longer; but a tile with rows of several experts is
    computed in strips, so that groups should have whole tiles too.
    """
    fitting = [height for height in HEIGHTS if height <= rows / experts / 2]
    return fitting[0] if fitting else HEIGHTS[-1]


def product_tile(shape: Product) -> Tile:
    """The tile that moves the least, of those that fit."""
    height = height_of(shape.rows, shape.experts)
    visits = -(-shape.rows // height) + shape.experts

    def fit(summed: int, outputs: int) -> Fit:
        passes, whole = shape.outputs // outputs, summed == shape.summed
        rows = shape.operands * shape.rows * shape.summed * passes
        # Weights that are there whole stay on chip until the expert changes.
        reads = shape.experts if whole else visits
        weights = shape.weights * shape.summed * shape.outputs * reads
        steps = passes * visits * (shape.summed // summed)
        return Fit(shape.element * (rows + weights), steps, Tile(height, summed, outputs))

    return _best(
        fit(summed, outputs)
        for summed, outputs in itertools.product(pieces(shape.summed), pieces(shape.outputs))
        if _product_bytes(shape, Tile(height, summed, outputs)) <= on_chip() / 2
        and _is_shared(shape.outputs // outputs, shape.outputs)
    )


def weights_tile(shape: WeightGradient) -> Tile:
    """The tile of a weight gradient that moves the least, of those that fit."""
    height = height_of(shape.rows, shape.experts)
    visits = -(-shape.rows // height) + shape.experts

    def fit(inputs: int, outputs: int) -> Fit:
        across, down = shape.outputs // outputs, shape.inputs // inputs
        moved = shape.rows * (shape.inputs * across + shape.outputs * down)
        return Fit(shape.element * moved, across * down * visits, Tile(height, inputs, outputs))

    return _best(
        fit(inputs, outputs)
        for inputs, outputs in itertools.product(pieces(shape.inputs), pieces(shape.outputs))
        if _weights_bytes(shape, Tile(height, inputs, outputs)) <= on_chip() / 2
        and _is_shared(shape.inputs // inputs, shape.inputs)
    )


def filled(width: int) -> int:
    """`width` and what makes it one that can be cut: a narrow one is taken whole."""
    return width if width <= 8 * LANES else -(-width // LANES) * LANES


def pieces(width: int) -> Iterator[int]:
    """The widths of equal pieces, whole lanes each, from one piece on."""
    yield width
    for count in range(2, width // LANES + 1):
        if width % (count * LANES) == 0:
            yield width // count


def strip_width(width: int) -> int:
    """The columns that are computed at a time: few for a short program, and whole matrix units."""
    short = [piece for piece in pieces(width) if piece <= 2 * MATRIX_UNIT]
    return next((piece for piece in short if piece % MATRIX_UNIT == 0), (short or [width])[0])


def _is_shared(passes: int, width: int) -> bool:
    """Whether the cores get passes alike, or the width cannot be cut for them."""
    return passes % cores() == 0 or width % (cores() * LANES) != 0


def _best(fits: Iterator[Fit]) -> Tile:
    return min(fits).tile


def _product_bytes(shape: Product, tile: Tile) -> int:
    """Two buffers of all that moves, a strip of what is finished, and the sums of earlier steps."""
    height, summed, outputs = tile
    moved = shape.operands * height * summed + shape.weights * summed * outputs
    moved += (shape.beside + shape.results) * height * outputs
    strip = (shape.sums + shape.beside + shape.results) * height * strip_width(outputs)
    sums = shape.sums * height * outputs if summed < shape.summed else 0
    return 2 * shape.element * moved + FLOAT32 * (strip + sums)


def _weights_bytes(shape: WeightGradient, tile: Tile) -> int:
    """Two buffers of all that moves, the sum, and a strip of columns before it is added."""
    height, inputs, outputs = tile
    operands, block = height * (inputs + outputs), inputs * outputs
    moved = shape.element * operands + shape.result_element * block
    return 2 * moved + FLOAT32 * (block + inputs * strip_width(outputs) + operands)
