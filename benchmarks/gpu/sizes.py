"""What is measured: the sizes on a GPU, and those of the rehearsal on a CPU."""

import dataclasses
from typing import NamedTuple


class Experts(NamedTuple):
    """One set of experts with the rows that they run."""

    rows: int
    experts: int
    d_model: int
    d_expert: int


class Heads(NamedTuple):
    """One attention."""

    batch: int
    seq: int
    heads: int
    d_head: int


class Layer(NamedTuple):
    """One mixture, or the sub-layers of a Cartesian Product Layer."""

    tokens: int
    top_k: int
    experts: int
    d_model: int
    d_expert: int


class Texts(NamedTuple):
    """Texts that are written at once by a model that sees `window` tokens."""

    window: int
    texts: int


@dataclasses.dataclass(frozen=True)
class Sizes:
    """All sizes of one run."""

    dtype: str
    """Of computations."""
    seconds: float
    """That one series of runs takes, of those whose median is reported."""
    checked: tuple[Experts, ...]
    checked_float32: tuple[Experts, ...]
    attentions: tuple[Heads, ...]
    square: int
    """Of the matrices whose product is the peak."""
    copied_bytes: int
    legs: tuple[Experts, ...]
    """The most important first: the time ends before the list does."""
    ragged_legs: tuple[Experts, ...]
    """Where `ragged_dot` is timed too; compiling it takes long."""
    layers: tuple[Layer, ...]
    model: tuple[str, str]
    """Size and method of cartesian_moe_jax/models/sizes.py."""
    shrunk: dict[str, int]
    """Fields of the model in place of its own."""
    seq_len: int
    batches: tuple[int, ...]
    """Sequences of a step: the first that fits is timed."""
    texts: tuple[Texts, ...]
    pytorch: tuple[Layer, ...]
    pytorch_decoding: tuple[Layer, ...]
    """Forward alone: a token of as many texts."""
    pytorch_runs: int
    """Of a case of PyTorch's, for one time."""


def _grid() -> tuple[Experts, ...]:
    first = (
        Experts(32768, 64, 2048, 1024),
        Experts(65536, 16, 768, 1536),  # of the training step
        Experts(32768, 256, 1024, 512),
    )
    whole = [
        Experts(32768, experts, d_model, d_expert)
        for d_model, d_expert in ((1024, 2048), (2048, 1024), (1024, 512), (2048, 2048))
        for experts in (32, 64, 256)
    ]
    rest = [
        Experts(32768, experts, d_model, d_expert)
        for d_model, d_expert in ((1024, 1024), (2048, 512))
        for experts in (32, 64, 256)
    ]
    return tuple(dict.fromkeys((*first, *whole, *rest)))


FULL = Sizes(
    dtype="bfloat16",
    seconds=0.1,
    checked=(
        Experts(16384, 64, 1024, 512),
        Experts(16384, 256, 2048, 512),
        Experts(5000, 8, 1000, 200),  # widths that no block divides
    ),
    checked_float32=(Experts(5000, 8, 1000, 200),),
    attentions=(Heads(2, 1024, 12, 64), Heads(2, 1000, 8, 128)),
    square=8192,
    copied_bytes=2**31,
    legs=_grid(),
    ragged_legs=(
        Experts(32768, 64, 2048, 1024),
        Experts(32768, 256, 1024, 512),
    ),
    layers=(
        Layer(16384, 2, 64, 2048, 1024),
        Layer(16384, 2, 16, 768, 1536),  # configs/paper.py:base,cartesian
        Layer(4096, 8, 256, 1024, 512),
    ),
    model=("base", "cartesian"),
    shrunk={},
    seq_len=1024,
    batches=(64, 32, 16),
    texts=(Texts(1024, 1), Texts(1024, 64)),
    pytorch=(Layer(8192, 2, 16, 768, 1536), Layer(8192, 2, 64, 2048, 1024)),
    pytorch_decoding=(Layer(64, 2, 16, 768, 1536),),
    pytorch_runs=10,
)

REHEARSAL = Sizes(
    dtype="float32",
    seconds=1e-3,
    checked=(Experts(80, 5, 64, 32),),
    checked_float32=(),
    attentions=(Heads(1, 40, 2, 8),),
    square=64,
    copied_bytes=2**16,
    legs=(Experts(64, 4, 64, 64),),
    ragged_legs=(Experts(64, 4, 64, 64),),
    layers=(Layer(32, 2, 4, 16, 8),),
    model=("base", "cartesian"),
    shrunk={"d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 24, "vocab_size": 128},
    seq_len=16,
    batches=(2,),
    texts=(Texts(8, 2),),
    pytorch=(Layer(32, 2, 4, 16, 8),),
    pytorch_decoding=(Layer(4, 2, 4, 16, 8),),
    pytorch_runs=1,
)
