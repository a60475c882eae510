"""The end-of-text token of a tokenizer file: the one that is named, or one of the usual names."""

from collections.abc import Collection, Mapping

from cartesian_moe_jax.errors import UserError, nearest

USUAL_NAMES = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",  # DeepSeek, with its full-width bars
    "<|im_end|>",
    "<|eot_id|>",
    "[EOS]",
    "[SEP]",
)
"""The names that end a document in published tokenizers, the most telling first."""


def find_end_of_text(named: str | int, vocabulary: Mapping[str, int], where: str) -> str:
    """Return the token ``named``, or, where it is empty, the first usual one of the vocabulary.

    A number is a token's id. Raises UserError, which names ``where``, if there is none.
    """
    if isinstance(named, int):
        names = (name for name, token in vocabulary.items() if token == named)
        if (name := next(names, None)) is None:
            raise no_end_of_text(named, where)
        return name
    if named:
        if named not in vocabulary:
            raise unknown_end_of_text(named, vocabulary, where)
        return named
    for name in USUAL_NAMES:
        if name in vocabulary:
            return name
    raise missing_end_of_text(where)


def unknown_end_of_text(named: str, known: Collection[str], where: str) -> UserError:
    """Return the error for a name that is none of the ``known`` tokens."""
    return UserError(
        f"config.data.end_of_text={named!r} is not a token that can end texts in "
        f"{where}{nearest(named, known)}"
    )


def no_end_of_text(token: int, where: str) -> UserError:
    """Return the error for an id that ends no text."""
    return UserError(f"token id {token} is none that can end texts in {where}")


def missing_end_of_text(where: str) -> UserError:
    """Return the error for a tokenizer that has no end-of-text token we would know."""
    return UserError(
        f"{where} has no known end-of-text token: name one of its tokens with "
        "config.data.end_of_text='<|endoftext|>' (or how it is called there)"
    )
