"""Training of a byte-level BPE tokenizer, which any text goes through and comes back from."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cartesian_moe_jax.data.tokenizers.libraries import library
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.paths import AnyPath, as_path, is_remote, write_atomically

MIN_VOCAB_SIZE = 257

Progress = Callable[[int, int], None]


def train_bpe(
    texts: Iterator[str],
    vocab_size: int,
    path: Path,
    end_of_text: str = "<|endoftext|>",
    progress: Progress | None = None,
) -> int:
    """Train a byte-level BPE on texts, which are read one by one, and write its tokenizer.json.

    Token 0 ends texts, the next 256 are the bytes, and the others are merges of pairs that occur
    at least twice. Equal texts in equal order give equal files.

    Args:
        texts: the corpus; it may be far larger than memory, its distinct words may not.
        vocab_size: the wanted number of tokens, end-of-text included.
        path: the file to write; it appears whole or not at all.
        end_of_text: the name of the token that ends texts; it must mix letters and signs, or
            words could make it.
        progress: called after each text with (texts, bytes of text) so far.

    Returns:
        The number of tokens, below ``vocab_size`` where the corpus has too few pairs.

    Raises:
        UserError: a wrong argument, no text at all, or a path that cannot be written.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise UserError(
            f"vocab_size={vocab_size} must be at least {MIN_VOCAB_SIZE}: 256 bytes and end-of-text"
        )
    target = as_path(path)
    _check_target(target)
    tokenizer, trainer = _untrained(vocab_size, end_of_text)
    counted = _Counted(texts, progress)
    tokenizer.train_from_iterator(iter(counted), trainer)
    if not counted.num_bytes:
        raise UserError(f"{path} cannot be trained: the corpus has no text")
    write_atomically(target, tokenizer.to_str())
    return tokenizer.get_vocab_size()


class _Counted:
    """The texts, cleaned of lone surrogates and counted as they go by."""

    def __init__(self, texts: Iterator[str], progress: Progress | None):
        self._texts, self._progress = texts, progress
        self.documents = self.num_bytes = 0

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            data = text.encode("utf-8", errors="replace")
            yield data.decode("utf-8")
            self.documents += 1
            self.num_bytes += len(data)
            if self._progress is not None:
                self._progress(self.documents, self.num_bytes)


def _check_target(path: AnyPath) -> None:
    """Refuse before the training, not after it, what cannot be written."""
    if is_remote(path):
        return
    if path.is_dir():
        raise UserError(f"{path} cannot be written: it is a folder, the path of a file is wanted")
    if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise UserError(f"{path} cannot be written: {path.parent} must be a writable folder")


def _untrained(vocab_size: int, end_of_text: str) -> tuple[Any, Any]:
    """Return a tokenizer without merges, and its trainer."""
    tokenizers = library("tokenizers", "training a tokenizer")
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    if len(byte_level.pre_tokenize_str(end_of_text)) < 2:
        raise UserError(
            f"end_of_text={end_of_text!r} must mix letters and signs, as <|endoftext|> does"
        )
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[end_of_text],
        initial_alphabet=sorted(byte_level.alphabet()),
        show_progress=False,
    )
    return tokenizer, trainer
