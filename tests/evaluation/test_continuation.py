"""Continuations in parts that fit a window, and the sizes of batches of them."""

import pytest

from cartesian_moe_jax.evaluation.downstream.buckets import SHORTEST, bucket, rows_of
from cartesian_moe_jax.evaluation.downstream.continuation import Continuation, cut_short, fitted


def whole(context, tokens):
    return Continuation(list(range(context)), list(range(context, context + tokens)))


@pytest.mark.parametrize("context, tokens", [(1, 1), (5, 3), (1, 8), (8, 1)])
def test_what_fits_is_left_as_it_is(context, tokens):
    assert fitted(whole(context, tokens), 8) == [whole(context, tokens)]
    assert not cut_short(whole(context, tokens), 8)


def test_the_end_of_a_context_is_kept():
    [part] = fitted(whole(20, 3), 8)
    assert part == Continuation([14, 15, 16, 17, 18, 19], [20, 21, 22])
    assert cut_short(whole(20, 3), 8)


@pytest.mark.parametrize("window", [1, 2, 3, 8, 9])
@pytest.mark.parametrize("context, tokens", [(1, 30), (5, 31), (12, 9)])
def test_every_token_is_scored_once_with_what_precedes_it(context, tokens, window):
    parts = fitted(whole(context, tokens), window)
    scored = [token for part in parts for token in part.tokens]
    assert scored == list(range(context, context + tokens))
    for part in parts:
        text = [*part.context, *part.tokens]
        assert text == list(range(text[0], text[-1] + 1)), "nothing is left out"
        assert len(part.context) >= 1 and part.length <= window
    for part in parts[1:]:
        assert len(part.context) >= window // 2


def test_no_tokens_are_no_parts():
    assert fitted(Continuation([1, 2], []), 8) == []


def test_sizes_are_few_and_at_most_half_too_large():
    sizes = {bucket(length, 1000) for length in range(1, 1001)}
    assert len(sizes) == 13
    for length in range(1, 1001):
        size = bucket(length, 1000)
        assert length <= size <= max(SHORTEST, min(1000, 1.5 * length))
    assert bucket(5, 7) == 7


@pytest.mark.parametrize(
    "tokens, length, wanted, parts, rows",
    [
        (1024, 64, 1000, 1, 16),
        (1024, 64, 5, 1, 8),  # a few rows to spare, not a batch of them
        (1024, 64, 1, 1, 1),
        (1024, 64, 1000, 3, 15),
        (1024, 64, 1, 8, 8),  # one for each device
        (10, 64, 1000, 1, 1),
    ],
)
def test_rows_of_a_batch(tokens, length, wanted, parts, rows):
    assert rows_of(tokens, length, wanted, parts) == rows
