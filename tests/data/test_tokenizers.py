import json

import numpy as np
import pytest

from cartesian_moe_jax.data import ByteTokenizer, build_tokenizer
from cartesian_moe_jax.errors import UserError


@pytest.mark.parametrize("text", ["", "def f():\n\treturn 1\r\n", "naïve 日本 🙂", "\x00\x7f"])
def test_decode_inverts_encode(text):
    tokenizer = ByteTokenizer()
    tokens = tokenizer.encode(text)
    assert tokens.dtype == np.uint16
    assert tokens.tolist() == list(text.encode("utf-8"))
    assert tokenizer.decode(tokens) == text


def test_decode_drops_special_tokens_and_padding_and_replaces_broken_utf8():
    assert ByteTokenizer().decode([104, 256, 105, 300, 511]) == "hi"
    assert ByteTokenizer().decode([0xE6, 0x97]) == "\ufffd"
    assert ByteTokenizer().decode([]) == ""


def test_a_lone_surrogate_does_not_stop_encoding():
    assert ByteTokenizer().decode(ByteTokenizer().encode("a\ud800b")) == "a?b"


def test_description_travels_as_json():
    tokenizer = ByteTokenizer()
    again = build_tokenizer(json.loads(json.dumps(tokenizer.description())))
    assert again == tokenizer == build_tokenizer("bytes")
    assert (again.vocab_size, again.end_of_text) == (257, 256)


def test_unknown_tokenizer_names_the_known_ones():
    with pytest.raises(UserError, match=r"'byte'.*bytes"):
        build_tokenizer("byte")
