"""Small tokenizer files made on the fly, and texts that are hard to bring back."""

import functools
import io
import json
import random

from cartesian_moe_jax.data.tokenizers import build_tokenizer, train_bpe

TRICKY_TEXTS = [
    "",
    " ",
    "  two  spaces ",
    "def f():\n\treturn 1\r\n\n\n",
    "naïve cafe\u0301 日本語 🙂👩‍👩‍👧 \u202eright to left",
    "\x00\x7f\ufeff\ufffd\U0010ffff",
    "<|endoftext|>",
    "a<|endoftext|>b</s>[SEP]<s>",
]


def sentences(count=400, seed=0):
    """Lines of words that repeat, equal for equal arguments."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 6))) for _ in range(80)]
    return [" ".join(draw.choices(words, k=8)) for _ in range(count)]


def bpe_file(folder, name="tokenizer.json", vocab_size=300, seed=0):
    path = folder / name
    assert train_bpe(iter(sentences(seed=seed)), vocab_size, path) == vocab_size
    return path


def changed(path, **sections):
    """Rewrite parts of a tokenizer.json."""
    values = json.loads(path.read_text(encoding="utf-8")) | sections
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def json_tokenizer(model, end_of_text="", **sections):
    """The tokenizer of a tokenizer.json with the given model."""
    empty = dict.fromkeys(
        ["truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"]
    )
    values = {"version": "1.0", "added_tokens": [], **empty, "model": model, **sections}
    content = json.dumps(values)
    return build_tokenizer({"kind": "json", "content": content, "end_of_text": end_of_text}, "it")


@functools.cache
def sentencepiece_model(**options):
    """The bytes of a small model; it has byte fallback, so that no text is unknown."""
    import sentencepiece

    model = io.BytesIO()
    defaults = {
        "vocab_size": 320,
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences()), model_writer=model, **(defaults | options)
    )
    return model.getvalue()


def sentencepiece_file(folder, name="tokenizer.model", **options):
    path = folder / name
    path.write_bytes(sentencepiece_model(**options))
    return path
