import collections
import math

import numpy as np
import pytest

from cartesian_moe_jax.data import evaluation_batches
from cartesian_moe_jax.data.tokenizers import resolve_tokenizer, train_bpe
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.evaluation import ngram
from cartesian_moe_jax.evaluation.ngram import TrigramModel, trigram_baseline
from tests.packing import numbered_lines, pack_spec, pack_texts


def slow_kneser_ney(tokens, vocab_size):
    """Interpolated Kneser-Ney, from the definition, in dictionaries."""
    trigrams = collections.Counter(zip(tokens, tokens[1:], tokens[2:], strict=False))
    bigrams = collections.Counter((b, c) for _, b, c in trigrams)
    unigrams = collections.Counter(c for _, c in bigrams)

    def discount(counts):
        once, twice = (sum(count == n for count in counts.values()) for n in (1, 2))
        return once / (once + 2 * twice) if once else 0.5

    def mix(counts, context, token, lower):
        following = {k: n for k, n in counts.items() if k[:-1] == context}
        if not following:
            return lower
        left = discount(counts) * len(following) * lower
        own = max(following.get((*context, token), 0) - discount(counts), 0)
        return (own + left) / sum(following.values())

    def probability(a, b, c):
        first = mix({(k,): n for k, n in unigrams.items()}, (), c, 1 / vocab_size)
        return mix(trigrams, (a, b), c, mix(bigrams, (b,), c, first))

    return probability


@pytest.mark.parametrize("text", ["abracadabra", "aaaa", "abcdefgh", "aabbaabbab" * 3, "abc"])
def test_agrees_with_a_loop_over_the_definition(text):
    tokens = [ord(letter) - ord("a") for letter in text]
    vocab_size = 20
    slow = slow_kneser_ney(tokens, vocab_size)
    model = TrigramModel.fit(iter([np.array(tokens)]), vocab_size)
    for a, b in [(0, 1), (1, 0), (0, 0), (19, 0), (0, 19), (18, 19)]:
        expected = [slow(a, b, c) for c in range(vocab_size)]
        np.testing.assert_allclose(model.distribution(a, b), expected, rtol=1e-12)
    expected = [slow(*tokens[i : i + 3]) for i in range(len(tokens) - 2)]
    np.testing.assert_allclose(model.predict(np.array(tokens)), expected, rtol=1e-12)


@pytest.mark.parametrize("length", [0, 1, 3, 5000])
def test_probabilities_sum_to_one_after_seen_and_unseen_contexts(length):
    tokens = np.random.default_rng(0).geometric(0.1, length).clip(max=39)
    model = TrigramModel.fit(iter([tokens]), 50)
    for context in [(1, 1), (1, 2), (38, 37), (1, 49), (49, 1), (49, 48)]:
        probabilities = model.distribution(*context)
        assert probabilities.shape == (50,)
        assert (probabilities > 0).all()
        assert probabilities.sum() == pytest.approx(1, abs=1e-12)


@pytest.fixture
def packed(tmp_path):
    texts = {f"{i}.txt": numbered_lines(50 + i) + "the end, naïvely\n" for i in range(60)}
    return pack_texts(tmp_path, texts, validation_share=0.2)


def test_beats_a_unigram_and_counts_bits_per_byte_of_text(packed):
    train, validation = packed.split("train"), packed.split("validation")
    result = trigram_baseline(train, validation, train.corpus.tokenizer)
    counts = np.bincount(train.read(0, len(train)), minlength=257) + 1
    targets = validation.read(1, len(validation))
    unigram = -np.log(counts / counts.sum())[targets].mean()
    assert result.nats_per_symbol < 0.7 * unigram
    assert result.train_tokens == len(train)
    bits = result.nats_per_symbol * result.predicted / math.log(2)
    assert result.bits_per_byte == pytest.approx(bits / validation.num_bytes)


def test_predicts_what_evaluation_batches_ask_for(packed):
    train, validation = packed.split("train"), packed.split("validation")
    result = trigram_baseline(train, validation, train.corpus.tokenizer)
    slow_model = TrigramModel.fit(iter([train.read(0, len(train))]), 257)
    nats, predicted, before = 0.0, 0, 256
    for tokens, mask in evaluation_batches(validation, 32, 4):
        for window, wanted in zip(tokens, mask, strict=True):
            for b, c in zip(window[:-1][wanted], window[1:][wanted], strict=True):
                nats -= math.log(slow_model.distribution(int(before), int(b))[c])
                predicted, before = predicted + 1, b
    assert result.predicted == predicted
    assert result.nats_per_symbol == pytest.approx(nats / predicted)


def test_chunks_and_shards_do_not_matter(packed, monkeypatch):
    whole = trigram_baseline(
        packed.split("train"), packed.split("validation"), packed.tokenizer, 3000
    )
    assert whole.train_tokens == 3000
    monkeypatch.setattr(ngram, "CHUNK_TOKENS", 999)
    pieces = trigram_baseline(
        packed.split("train"), packed.split("validation"), packed.tokenizer, 3000
    )
    assert pieces.nats_per_symbol == pytest.approx(whole.nats_per_symbol, rel=1e-12)


def test_a_vocabulary_too_large_to_count_is_an_error():
    with pytest.raises(UserError, match=r"vocab_size=32000.*at most 322"):
        TrigramModel.fit(iter([]), 32_000)


def test_tokens_too_many_to_count_are_counted_as_their_bytes(packed, tmp_path, monkeypatch):
    texts = [path.read_text(encoding="utf-8") for path in (tmp_path / "source").glob("*")]
    train_bpe(iter(texts), 400, tmp_path / "bpe.json")
    bpe = resolve_tokenizer(str(tmp_path / "bpe.json"))
    assert bpe.vocab_size > 322
    as_bpe = pack_spec(tmp_path, f"text:{tmp_path}/source", bpe, validation_share=0.2)
    train, validation = as_bpe.split("train"), as_bpe.split("validation")
    assert len(train) < len(packed.split("train")) / 2
    expected = trigram_baseline(packed.split("train"), packed.split("validation"), packed.tokenizer)
    assert expected.symbols == "tokens"
    for chunk in (2**18, 300):
        monkeypatch.setattr(ngram, "CHUNK_DECODED", chunk)
        result = trigram_baseline(train, validation, bpe)
        assert result.symbols == "bytes"
        assert result.predicted == expected.predicted
        assert result.bits_per_byte == pytest.approx(expected.bits_per_byte, rel=1e-9)
