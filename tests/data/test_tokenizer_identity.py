import json

import pytest

from cartesian_moe_jax.data.tokenizers import (
    ByteTokenizer,
    require_same_tokenizer,
    resolve_tokenizer,
    tokenizer_label,
)
from cartesian_moe_jax.errors import UserError
from tests.tokenizer_files import bpe_file, changed, sentencepiece_file


def test_equal_tokenizers_have_equal_identities_and_others_do_not(tmp_path):
    files = [
        bpe_file(tmp_path, "a.json"),
        bpe_file(tmp_path, "b.json", seed=1),
        bpe_file(tmp_path, "c.json", vocab_size=301),
        sentencepiece_file(tmp_path, "a.model"),
        sentencepiece_file(tmp_path, "b.model", vocab_size=321),
    ]
    ends = [resolve_tokenizer(str(files[-1]), "<s>")]
    tokenizers = [ByteTokenizer(), *(resolve_tokenizer(str(f)) for f in files), *ends]
    for i, a in enumerate(tokenizers):
        for j, b in enumerate(tokenizers):
            assert (a == b) == (a.identity() == b.identity()) == (i == j)
    copy = bpe_file(tmp_path, "copy.json")
    assert resolve_tokenizer(str(copy)) == tokenizers[1]


def test_identity_is_small_json(tmp_path):
    identity = resolve_tokenizer(str(bpe_file(tmp_path))).identity()
    assert json.loads(json.dumps(identity)) == identity
    assert {"kind", "vocab_size", "end_of_text", "sha256"} <= set(identity)
    assert len(json.dumps(identity)) < 300


def test_labels_are_short():
    sha256 = "3fa4c1d2" + "0" * 56
    identity = {"kind": "json", "vocab_size": 8192, "end_of_text": 0, "sha256": sha256}
    assert tokenizer_label(ByteTokenizer().identity()) == "bytes (257 tokens)"
    assert tokenizer_label(identity | {"model": "bpe"}) == "bpe 3fa4c1d2 (8,192 tokens)"
    assert tokenizer_label(identity) == "json 3fa4c1d2 (8,192 tokens)"
    assert tokenizer_label(identity | {"name": "llama"}) == "llama (8,192 tokens)"


def test_different_tokenizers_are_named_with_where_they_are_from(tmp_path):
    one = resolve_tokenizer(str(bpe_file(tmp_path)))
    other = resolve_tokenizer(str(changed(bpe_file(tmp_path), version="1.0")))
    named = one.identity() | {"name": "mine"}
    require_same_tokenizer(one.identity(), "run/a", named, "run/b")
    require_same_tokenizer(named, "run/a", one.identity(), "run/b")
    with pytest.raises(UserError) as caught:
        require_same_tokenizer(one.identity(), "run/a", other.identity(), "run/b")
    message = str(caught.value)
    for part in ("run/a", "run/b", *(tokenizer_label(t.identity()) for t in (one, other))):
        assert part in message
    assert "differ in sha256" in message
    assert "\n" not in message
