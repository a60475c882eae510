import json

import numpy as np
import pytest

from cartesian_moe_jax.data.tokenizers import json_tokenizer as module
from cartesian_moe_jax.data.tokenizers import resolve_tokenizer
from cartesian_moe_jax.errors import UserError
from tests.tokenizer_files import TRICKY_TEXTS, bpe_file, changed, json_tokenizer, sentences

WORDS = {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "[UNK]": 2}, "unk_token": "[UNK]"}
SPLIT = {"pre_tokenizer": {"type": "WhitespaceSplit"}}
LETTERS = {"type": "BPE", "vocab": {letter: i for i, letter in enumerate("<>ae ")}, "merges": []}


def added(token_id, content, special=True):
    flags = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)
    return {"id": token_id, "content": content, "special": special, **flags}


def words(*names):
    return WORDS | {"vocab": WORDS["vocab"] | {name: 3 + i for i, name in enumerate(names)}}


def test_truncation_padding_and_templates_are_ignored(tmp_path):
    plain = resolve_tokenizer(str(bpe_file(tmp_path)))
    truncation = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    padding = {
        "strategy": {"Fixed": 100},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<|endoftext|>",
    }
    end = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    template = {
        "type": "TemplateProcessing",
        "single": [end, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}
        },
    }
    file = changed(
        bpe_file(tmp_path, "other.json"),
        truncation=truncation,
        padding=padding,
        post_processor=template,
    )
    other = resolve_tokenizer(str(file))
    texts = [*TRICKY_TEXTS, *sentences(20)]
    for a, b in zip(plain.encode_batch(texts), other.encode_batch(texts), strict=True):
        assert a.tolist() == b.tolist()
    assert other.encode(texts[-1]).tolist() == plain.encode(texts[-1]).tolist()
    assert other != plain


def test_bpe_dropout_is_ignored(tmp_path):
    path = bpe_file(tmp_path)
    plain = resolve_tokenizer(str(path))
    model = json.loads(path.read_text(encoding="utf-8"))["model"] | {"dropout": 0.9}
    other = resolve_tokenizer(str(changed(path, model=model)))
    text = " ".join(sentences(5))
    assert other.encode(text).tolist() == plain.encode(text).tolist()


def test_a_large_batch_is_cut_into_groups_in_order(tmp_path, monkeypatch):
    tokenizer = resolve_tokenizer(str(bpe_file(tmp_path)))
    texts = [*sentences(60), "x" * 500, "", "y"]
    whole = [tokens.tolist() for tokens in tokenizer.encode_batch(texts)]
    calls = []
    monkeypatch.setattr(module, "GROUP_CHARACTERS", 100)
    groups = module._groups
    monkeypatch.setattr(module, "_groups", lambda t: calls.extend(groups(t)) or iter(calls))
    assert [tokens.tolist() for tokens in tokenizer.encode_batch(texts)] == whole
    assert [text for group in calls for text in group] == texts
    assert all(len(group) == 1 or sum(map(len, group)) <= 100 for group in calls)
    assert 10 < len(calls) < len(texts)


def test_a_long_text_is_encoded_whole(tmp_path):
    tokenizer = resolve_tokenizer(str(bpe_file(tmp_path)))
    text = "\n".join(sentences()) * 150  # 2 MB
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("special", [True, False])
def test_an_added_token_in_a_text_is_plain_text(special):
    tokenizer = json_tokenizer(LETTERS, "<e>", added_tokens=[added(5, "<e>", special)])
    assert tokenizer.end_of_text == 5
    assert tokenizer.encode("a<e>a").tolist() == [2, 0, 3, 1, 2]
    assert tokenizer.decode([2, 5, 2]).replace(" ", "") == "aa"


def test_other_added_tokens_that_are_not_special_are_kept():
    tokens = [added(5, "<e>"), added(6, "ee", special=False)]
    tokenizer = json_tokenizer(LETTERS, "<e>", added_tokens=tokens)
    assert tokenizer.encode("aee").tolist() == [2, 6]


def test_a_unigram_file_does_not_take_its_special_tokens_from_their_letters():
    pieces = [["<unk>", 0.0], ["</s>", 0.0], *([letter, -2.0] for letter in "</s>a")]
    model = {"type": "Unigram", "unk_id": 0, "vocab": pieces}
    tokenizer = json_tokenizer(model, added_tokens=[added(0, "<unk>"), added(1, "</s>")])
    assert tokenizer.end_of_text == 1
    spelt = [2, 3, 4, 5]
    assert tokenizer.encode("a</s></s>a").tolist() == [6, *spelt, *spelt, 6]
    batch = tokenizer.encode_batch(["</s>", "", "a"])
    assert [tokens.tolist() for tokens in batch] == [spelt, [], [6]]


def test_a_word_list_does_not_take_its_end_of_text_from_its_letters():
    tokenizer = json_tokenizer(words("</s>"), **SPLIT)
    assert tokenizer.end_of_text == 3
    assert tokenizer.encode("a </s> b").tolist() == [0, 2, 2, 1]


@pytest.mark.parametrize("end, dtype", [(65_535, np.uint16), (65_536, np.uint32)])
def test_vocabulary_size_is_the_highest_id_and_one(end, dtype):
    model = WORDS | {"vocab": WORDS["vocab"] | {"</s>": end}}
    tokenizer = json_tokenizer(model, **SPLIT)
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (end + 1, end)
    assert tokenizer.encode("a b").dtype == tokenizer.encode_batch(["a"])[0].dtype == dtype
    assert tokenizer.decode([0, 500, end, 1]) == "a b"


@pytest.mark.parametrize(
    "names, named, end",
    [
        (["[SEP]", "</s>"], "", 4),
        (["</s>", "<|endoftext|>"], "", 4),
        (["</s>", "[SEP]"], "[SEP]", 4),
        (["<|im_end|>"], "", 3),
    ],
)
def test_end_of_text_is_the_named_token_or_a_usual_one(names, named, end):
    assert json_tokenizer(words(*names), named, **SPLIT).end_of_text == end


def test_without_a_usual_name_the_error_says_how_to_name_one():
    with pytest.raises(UserError, match=r"it has no known end.*config\.data\.end_of_text="):
        json_tokenizer(WORDS, **SPLIT)


def test_a_wrong_name_is_refused_with_the_nearest_ones():
    with pytest.raises(UserError, match=r"end_of_text='<eos>' .* mean '<eos2>'"):
        json_tokenizer(words("<eos2>", "</s>"), "<eos>", **SPLIT)


@pytest.mark.parametrize(
    "model, words",
    [
        ({"type": "BPE", "vocab": {}, "merges": []}, "vocabulary is empty"),
        ({"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}, "no usable tokenizer.json"),
        ({"type": "Unigram", "unk_id": 7, "vocab": [["</s>", 0.0]]}, "no usable tokenizer.json"),
        ({"type": "Unigram", "unk_id": None, "vocab": [["</s>", 0.0]]}, "cannot encode texts"),
        ({"type": "WordLevel", "vocab": {"</s>": 0}, "unk_token": "?"}, "cannot encode texts"),
    ],
)
def test_an_incomplete_file_is_refused_before_it_is_used(model, words):
    with pytest.raises(UserError, match=f"^it .*{words}") as caught:
        json_tokenizer(model)
    assert "\n" not in str(caught.value)
