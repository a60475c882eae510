"""Text to token batches: sources, tokenizers, packed shards, windows, and the loader.

`prepare_data` reads and tokenises a corpus once into memory-mapped shards; `training_batches` and
`evaluation_batches` read them.
"""

from cartesian_moe_jax.data.loader import TrainingBatches, evaluation_batches, training_batches
from cartesian_moe_jax.data.pack_settings import PackSettings
from cartesian_moe_jax.data.packed import PackedCorpus, PackedTokens, open_packed
from cartesian_moe_jax.data.packed_cache import pack
from cartesian_moe_jax.data.parts import Part
from cartesian_moe_jax.data.prepared import PreparedData, prepare_data, prepare_split
from cartesian_moe_jax.data.sources.spec import SOURCES, parse_corpus, parse_source
from cartesian_moe_jax.data.tokenizers import TOKENIZERS, ByteTokenizer, build_tokenizer
from cartesian_moe_jax.data.windows import WindowSource

__all__ = [
    "SOURCES",
    "TOKENIZERS",
    "ByteTokenizer",
    "PackSettings",
    "PackedCorpus",
    "PackedTokens",
    "Part",
    "PreparedData",
    "TrainingBatches",
    "WindowSource",
    "build_tokenizer",
    "evaluation_batches",
    "open_packed",
    "pack",
    "parse_corpus",
    "parse_source",
    "prepare_data",
    "prepare_split",
    "training_batches",
]
