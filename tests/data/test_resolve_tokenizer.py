import json
import os

import pytest

from cartesian_moe_jax.data.tokenizers import ByteTokenizer, resolve_tokenizer
from cartesian_moe_jax.errors import UserError
from tests.tokenizer_files import bpe_file, sentencepiece_file


def refused(setting, words, end_of_text=""):
    with pytest.raises(UserError, match=words) as caught:
        resolve_tokenizer(str(setting), end_of_text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bytes_need_no_file():
    assert resolve_tokenizer("bytes") == ByteTokenizer()
    refused("bytes", "config.data.end_of_text='</s>' .* leave it empty", "</s>")


@pytest.mark.parametrize("setting", ["words", "", " ", "/nowhere/tokenizer.json", "a\0b"])
def test_what_is_neither_a_name_nor_a_file_is_told_what_is_allowed(setting):
    message = refused(setting, "config.data.tokenizer='.*' is unknown: .*bytes.*tokenizer.json")
    assert repr(setting) in message


def test_a_file_is_recognised_by_what_it_holds(tmp_path):
    bpe, model = bpe_file(tmp_path), sentencepiece_file(tmp_path)
    assert resolve_tokenizer(str(bpe)).kind == "json"
    assert resolve_tokenizer(str(model)).kind == "sentencepiece"
    for path, kind in [(bpe, "json"), (model, "sentencepiece")]:
        renamed = path.rename(tmp_path / f"{kind}.file")
        assert resolve_tokenizer(str(renamed)).kind == kind


def test_a_folder_stands_for_the_file_in_it(tmp_path):
    refused(tmp_path, "is unknown.*a folder with either")
    model = resolve_tokenizer(str(sentencepiece_file(tmp_path)))
    assert resolve_tokenizer(str(tmp_path)) == model
    bpe = resolve_tokenizer(str(bpe_file(tmp_path)))
    assert resolve_tokenizer(str(tmp_path)) == bpe != model


@pytest.mark.parametrize("make", [bpe_file, sentencepiece_file])
def test_a_description_is_a_file_too(tmp_path, make):
    tokenizer = resolve_tokenizer(str(make(tmp_path)))
    path = tmp_path / "description.json"
    path.write_text(json.dumps(tokenizer.description()))
    assert resolve_tokenizer(str(path)) == tokenizer
    path.write_text(json.dumps({"kind": "bytes"}))
    assert resolve_tokenizer(str(path)) == ByteTokenizer()


def test_the_end_of_text_can_be_chosen(tmp_path):
    path = str(sentencepiece_file(tmp_path))
    assert resolve_tokenizer(path, "<s>").end_of_text == 1
    refused(path, "config.data.end_of_text='<|eot|>' is not .*tokenizer.model", "<|eot|>")


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    path = bpe_file(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_tokenizer("~/tokenizer.json") == resolve_tokenizer(str(path))


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "damaged JSON"),
        (b'{"model": {"type": "BPE"', "damaged JSON"),
        (b"\xff\xfe{}", "damaged JSON"),
        (b"[" * 200_000, "damaged JSON"),
        (b"[1, 2]", "no tokenizer: a tokenizer.json has"),
        (b'{"vocab": {}}', "no tokenizer: a tokenizer.json has"),
        (b'{"kind": "words"}', "kind='words' .*bytes, json, sentencepiece"),
        (b'{"kind": ["a\\nb"]}', "kind="),
        (b'{"kind": "json"}', "'content' must be"),
        (b'{"model": {}}', "no usable tokenizer.json"),
        (b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}', "no usable"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_one_line_that_names_it(tmp_path, content, words):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    assert str(path) in refused(path, words)


def test_a_truncated_tokenizer_is_refused(tmp_path):
    path = bpe_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    assert str(path) in refused(path, "damaged JSON")


def test_a_file_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    path = bpe_file(tmp_path)

    def fail(self):
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(type(path), "read_bytes", fail)
    refused(path, "tokenizer.json cannot be read: Permission denied")


def test_an_unknown_kind_of_path_is_refused():
    refused("ftp://host/tokenizer.json", "ftp://host/tokenizer.json.* is not supported")
