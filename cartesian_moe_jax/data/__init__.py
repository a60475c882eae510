"""Text to token batches: corpora, tokenizers, packed shards, windows, and the loader.

`prepare` tokenises a corpus once into memory-mapped shards; `training_batches` and
`evaluation_batches` read them.
"""

from cartesian_moe_jax.data.corpora import CORPORA, Document, parse_corpus
from cartesian_moe_jax.data.loader import TrainingBatches, evaluation_batches, training_batches
from cartesian_moe_jax.data.packed import PackedCorpus, PackedTokens, open_packed
from cartesian_moe_jax.data.packing import prepare
from cartesian_moe_jax.data.tokenizers import TOKENIZERS, ByteTokenizer, build_tokenizer
from cartesian_moe_jax.data.windows import WindowSource

__all__ = [
    "CORPORA",
    "TOKENIZERS",
    "ByteTokenizer",
    "Document",
    "PackedCorpus",
    "PackedTokens",
    "TrainingBatches",
    "WindowSource",
    "build_tokenizer",
    "evaluation_batches",
    "open_packed",
    "parse_corpus",
    "prepare",
    "training_batches",
]
