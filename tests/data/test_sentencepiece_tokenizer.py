import hashlib

import pytest

from cartesian_moe_jax.data.tokenizers import (
    build_tokenizer,
    resolve_tokenizer,
    sentencepiece_tokenizer,
    tokenizer_label,
)
from cartesian_moe_jax.errors import UserError
from tests.tokenizer_files import sentencepiece_file, sentencepiece_model


def test_neither_begin_nor_end_of_text_is_added(tmp_path):
    tokenizer = resolve_tokenizer(str(sentencepiece_file(tmp_path)))
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (320, 2)
    assert not {1, 2} & set(tokenizer.encode("ab <s> cd </s>").tolist())


def test_published_models_are_recognised_by_their_hash(tmp_path, monkeypatch):
    path = sentencepiece_file(tmp_path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    tokenizer = resolve_tokenizer(str(path))
    assert tokenizer_label(tokenizer.identity()) == f"sentencepiece {sha256[:8]} (320 tokens)"
    monkeypatch.setitem(sentencepiece_tokenizer.KNOWN_MODELS, sha256, "llama")
    assert tokenizer.identity()["name"] == "llama"
    assert tokenizer_label(tokenizer.identity()) == "llama (320 tokens)"
    again = build_tokenizer(tokenizer.description())
    assert again.identity()["name"] == "llama"


def test_the_hash_of_llama_is_known():
    sha256 = "9e556afd44213b6bd1be2b850ebbbd98f5481437a8021afaf58ee7fb1818d347"
    assert sentencepiece_tokenizer.KNOWN_MODELS[sha256] == "llama"


def test_a_model_without_an_end_needs_the_name_of_a_control_piece(tmp_path):
    options = {"eos_id": -1, "control_symbols": "<stop>", "user_defined_symbols": "<user>"}
    path = sentencepiece_file(tmp_path, **options)
    with pytest.raises(UserError, match=r"no known end-of-text.*config\.data\.end_of_text="):
        resolve_tokenizer(str(path))
    for wrong in ("<stip>", "<user>", "ab"):
        with pytest.raises(UserError, match=f"end_of_text='{wrong}' is not") as caught:
            resolve_tokenizer(str(path), wrong)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
    with pytest.raises(UserError, match="did you mean '<stop>'"):
        resolve_tokenizer(str(path), "<stip>")
    tokenizer = resolve_tokenizer(str(path), "<stop>")
    assert tokenizer.end_of_text not in tokenizer.encode("a<stop>b")
    assert tokenizer.decode([tokenizer.end_of_text]) == ""
    assert build_tokenizer(tokenizer.description()) == tokenizer


def test_another_control_piece_can_end_texts(tmp_path):
    path = str(sentencepiece_file(tmp_path))
    other = resolve_tokenizer(path, "<s>")
    assert other.end_of_text == 1
    assert other != resolve_tokenizer(path)
    assert other.identity() != resolve_tokenizer(path).identity()


@pytest.mark.parametrize("damage", ["empty", "short", "half", "garbage", "zeros"])
def test_a_damaged_model_is_one_line(tmp_path, damage):
    model = sentencepiece_model()
    contents = {
        "empty": b"",
        "short": model[:5],
        "half": model[: len(model) // 2],
        "garbage": b"\xffgarbage" * 50,
        "zeros": bytes(100),
    }
    path = tmp_path / "tokenizer.model"
    path.write_bytes(contents[damage])
    with pytest.raises(UserError, match="no SentencePiece model") as caught:
        resolve_tokenizer(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
