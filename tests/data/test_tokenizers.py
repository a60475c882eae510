"""What every tokenizer promises, the byte tokenizer, and the registry."""

import json
import subprocess
import sys

import numpy as np
import pytest

from cartesian_moe_jax.data.tokenizers import (
    TOKENIZERS,
    ByteTokenizer,
    Tokenizer,
    build_tokenizer,
    resolve_tokenizer,
)
from cartesian_moe_jax.errors import UserError
from tests.tokenizer_files import TRICKY_TEXTS, bpe_file, sentencepiece_file, sentences

MAKERS = {
    "bytes": lambda folder: ByteTokenizer(),
    "json": lambda folder: resolve_tokenizer(str(bpe_file(folder))),
    "sentencepiece": lambda folder: resolve_tokenizer(str(sentencepiece_file(folder))),
}


@pytest.fixture(scope="module", params=sorted(TOKENIZERS))
def tokenizer(request, tmp_path_factory):
    return MAKERS[request.param](tmp_path_factory.mktemp("tokenizer"))


def test_it_is_what_the_protocol_asks_for(tokenizer):
    assert isinstance(tokenizer, Tokenizer)
    assert TOKENIZERS[tokenizer.kind] is type(tokenizer)


@pytest.mark.parametrize("text", TRICKY_TEXTS)
def test_decode_inverts_encode(tokenizer, text):
    tokens = tokenizer.encode(text)
    assert tokens.dtype == np.uint16
    assert tokens.ndim == 1
    assert tokenizer.decode(tokens) == tokenizer.decode(tokens.tolist()) == text


@pytest.mark.parametrize("text", TRICKY_TEXTS)
def test_no_text_holds_the_end_of_text_token(tokenizer, text):
    named = text + tokenizer.description().get("end_of_text", "")
    tokens = tokenizer.encode(named)
    assert tokenizer.end_of_text not in tokens
    assert tokenizer.decode(tokens) == named


def test_special_and_unused_ids_decode_to_nothing(tokenizer):
    tokens = tokenizer.encode("ab cd").tolist()
    beyond = tokenizer.vocab_size + 5
    assert tokenizer.decode([*tokens, tokenizer.end_of_text, beyond]) == "ab cd"
    assert tokenizer.decode([]) == ""


def test_a_batch_is_encoded_as_each_text_is(tokenizer):
    texts = [*TRICKY_TEXTS, *sentences(50), "a\ud800b"]
    batch = tokenizer.encode_batch(texts)
    assert [tokens.tolist() for tokens in batch] == [tokenizer.encode(t).tolist() for t in texts]
    assert {tokens.dtype for tokens in batch} == {np.dtype(np.uint16)}
    assert tokenizer.encode_batch([]) == []
    assert [tokens.tolist() for tokens in tokenizer.encode_batch(["", ""])] == [[], []]


def test_a_lone_surrogate_does_not_stop_encoding(tokenizer):
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a?b"


def test_description_travels_as_json(tokenizer):
    again = build_tokenizer(json.loads(json.dumps(tokenizer.description())))
    assert again == tokenizer
    assert again.identity() == tokenizer.identity()
    assert again.encode("ab naïve").tolist() == tokenizer.encode("ab naïve").tolist()


def test_description_is_refused_for_an_end_of_text_it_lacks(tokenizer):
    with pytest.raises(UserError, match=r"end_of_text='<\|none\|>'.* here") as caught:
        build_tokenizer(tokenizer.description() | {"end_of_text": "<|none|>"}, "here")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["json", "sentencepiece"])
@pytest.mark.parametrize(
    "damage, words",
    [
        ({"content": None}, "'content' must be the text"),
        ({"content": 5}, "'content' must be the text"),
        ({"content": ""}, "sha256"),
        ({"content": "AAAA"}, "sha256"),
        ({"content": "", "sha256": None}, "damaged|no usable"),
        ({"kind": None}, "kind='None' .*bytes, json, sentencepiece"),
    ],
)
def test_a_damaged_description_is_refused(tmp_path, kind, damage, words):
    description = MAKERS[kind](tmp_path).description() | damage
    description = {key: value for key, value in description.items() if value is not None}
    with pytest.raises(UserError, match=words) as caught:
        build_tokenizer(description, "run/tokenizer.json")
    assert "run/tokenizer.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_content_that_is_not_base64_is_refused(tmp_path):
    description = MAKERS["sentencepiece"](tmp_path).description() | {"content": "é*"}
    with pytest.raises(UserError, match="must be in base64"):
        build_tokenizer(description)


def test_bytes_are_the_utf8_bytes():
    text = "naïve 日本 🙂"
    assert ByteTokenizer().encode(text).tolist() == list(text.encode("utf-8"))
    assert (ByteTokenizer().vocab_size, ByteTokenizer().end_of_text) == (257, 256)
    assert build_tokenizer("bytes") == ByteTokenizer()


def test_bytes_decode_drops_padding_and_replaces_broken_utf8():
    assert ByteTokenizer().decode([104, 256, 105, 300, 511]) == "hi"
    assert ByteTokenizer().decode([0xE6, 0x97]) == "\ufffd"


def test_unknown_tokenizer_names_the_known_ones():
    with pytest.raises(UserError, match=r"config.data.tokenizer='byte'.*bytes"):
        build_tokenizer("byte")


def test_importing_tokenizers_imports_neither_their_libraries_nor_jax():
    absent = ["jax", "tokenizers", "sentencepiece"]
    program = (
        "import sys, cartesian_moe_jax.data.tokenizers as t; t.resolve_tokenizer('bytes'); "
        f"print([m for m in {absent} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
