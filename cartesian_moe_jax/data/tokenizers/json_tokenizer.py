"""A tokenizer.json, the format of Hugging Face's library `tokenizers`."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Integer, UInt

from cartesian_moe_jax.data.tokenizers.content import check_hash, content_of, describe
from cartesian_moe_jax.data.tokenizers.end_of_text import find_end_of_text
from cartesian_moe_jax.data.tokenizers.identity import tokenizer_identity
from cartesian_moe_jax.data.tokenizers.libraries import library, one_line
from cartesian_moe_jax.errors import UserError

GROUP_CHARACTERS = 2**20
"""Most characters that the library gets at once: it needs some 150 bytes for each of them."""

UNUSUAL_TEXT = "\ue000"
"""A character of private use, unknown to most vocabularies that can miss one."""


@dataclasses.dataclass(frozen=True)
class JsonTokenizer:
    """A tokenizer.json, used for its vocabulary: every text is plain text to it.

    Texts that spell out a special token do not yield it, and none is added. What the file says
    about truncation, padding and BPE dropout is not followed.

    Attributes:
        content: the file.
        model: what the file calls its model, in lower case: `bpe`, `unigram`, ...
        vocab_size: the highest id and one; ids below it may be unused.
        end_of_text: the id of the end-of-text token.
    """

    content: str = dataclasses.field(repr=False)
    model: str
    vocab_size: int
    end_of_text: int
    _tokenizer: Any = dataclasses.field(repr=False, compare=False)
    _cuts: re.Pattern[str] | None = dataclasses.field(repr=False, compare=False)
    kind: ClassVar[str] = "json"

    @classmethod
    def from_description(cls, description: Mapping[str, Any], where: str) -> "JsonTokenizer":
        """Make the tokenizer.

        Args:
            description: `{"kind", "content"}`, and maybe `end_of_text` and `sha256`.
            where: what messages call the tokenizer.

        Raises:
            UserError: the content is damaged, or has no such end-of-text token.
        """
        content = content_of(description, where)
        check_hash(description, _bytes_of(content), where)
        tokenizer = _open(content, where)
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        if not vocabulary:
            raise UserError(f"{where} is no usable tokenizer.json: its vocabulary is empty")
        name = find_end_of_text(description.get("end_of_text", ""), vocabulary, where)
        try:
            _make_special(tokenizer, name, where)
            cuts = _cuts_of(tokenizer)
        except Exception as error:
            raise UserError(f"{where} cannot encode texts: {one_line(error)}") from None
        model = type(tokenizer.model).__name__.lower()
        size = max(vocabulary.values()) + 1
        return cls(content, model, size, vocabulary[name], tokenizer, cuts)

    @property
    def dtype(self) -> np.dtype:
        """The type of its token ids: uint16, or uint32 for vocabularies above 65,536."""
        return np.dtype(np.uint16 if self.vocab_size <= 2**16 else np.uint32)

    def encode(self, text: str) -> UInt[np.ndarray, "tokens"]:
        """Return the token ids of a text; a lone surrogate becomes '?'.

        Time is linear in the length of a text, memory some 150 bytes per character.
        """
        pieces = [text] if self._cuts is None else self._cuts.split(text)
        return np.concatenate(self._encode(pieces))

    def encode_batch(self, texts: Sequence[str]) -> list[UInt[np.ndarray, "_"]]:
        """Return what `encode` returns for each of the texts."""
        if self._cuts is not None:
            return [self.encode(text) for text in texts]
        return [tokens for group in _groups(texts) for tokens in self._encode(group)]

    def decode(self, tokens: Integer[np.ndarray, "tokens"] | Sequence[int]) -> str:
        """Return the text; broken UTF-8 becomes U+FFFD, special and unused ids are dropped."""
        return self._tokenizer.decode(np.asarray(tokens, np.int64).tolist())

    def description(self) -> dict[str, Any]:
        """Return its kind, the file, its hash, and the name of the end-of-text token."""
        name = self._tokenizer.id_to_token(self.end_of_text)
        return describe(self.kind, self.content, _bytes_of(self.content), name)

    def identity(self) -> dict[str, Any]:
        """Return its identity, with the hash of the file."""
        content = _bytes_of(self.content)
        return tokenizer_identity(
            self.kind, self.vocab_size, self.end_of_text, content, model=self.model
        )

    def _encode(self, texts: Sequence[str]) -> list[UInt[np.ndarray, "_"]]:
        # `encode_batch` differs in keeping the offsets, which takes a quarter longer.
        encode = self._tokenizer.encode_batch_fast
        try:
            encodings = encode(texts, add_special_tokens=False)
        except TypeError:
            # That is how the library takes lone surrogates.
            cleaned = [_bytes_of(text).decode("utf-8") for text in texts]
            encodings = encode(cleaned, add_special_tokens=False)
        return [np.array(encoding.ids, self.dtype) for encoding in encodings]


def _open(content: str, where: str) -> Any:
    tokenizers = library("tokenizers", where)
    try:
        tokenizer = tokenizers.Tokenizer.from_str(content)
    except Exception as error:
        raise UserError(f"{where} is no usable tokenizer.json: {one_line(error)}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    if getattr(tokenizer.model, "dropout", None):
        tokenizer.model.dropout = None
    return tokenizer


def _make_special(tokenizer: Any, name: str, where: str) -> None:
    """Make the library treat a token as special, which not every file says of it."""
    token = library("tokenizers", where).AddedToken(name, special=True, normalized=False)
    tokenizer.add_special_tokens([token])


def _cuts_of(tokenizer: Any) -> re.Pattern[str] | None:
    """Return where texts must be cut so that no special token is made from its own letters.

    A byte-level BPE file needs no cuts, but Unigram takes `</s>` for the piece of that name.
    """
    tokenizer.encode(UNUSUAL_TEXT, add_special_tokens=False)  # raises if the file is incomplete
    added = tokenizer.get_added_tokens_decoder().items()
    special = [(i, token.content) for i, token in added if token.special and len(token.content) > 1]
    spelt = tokenizer.encode_batch_fast([name for _, name in special], add_special_tokens=False)
    unsafe = [name for (i, name), made in zip(special, spelt, strict=True) if i in made.ids]
    cuts = "|".join(f"(?<={re.escape(name[:-1])})(?={re.escape(name[-1])})" for name in unsafe)
    return re.compile(cuts) if unsafe else None


def _groups(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield the texts in order, in lists of up to GROUP_CHARACTERS or of one text."""
    group: list[str] = []
    characters = 0
    for text in texts:
        if group and characters + len(text) > GROUP_CHARACTERS:
            yield group
            group, characters = [], 0
        group.append(text)
        characters += len(text)
    if group:
        yield group


def _bytes_of(text: str) -> bytes:
    return text.encode("utf-8", errors="replace")
