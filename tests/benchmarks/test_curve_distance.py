"""How far loss curves of records lie apart, against numbers worked out by hand."""

import json

import pytest

from benchmarks.curve_distance import table
from tests.messages import message_of


@pytest.fixture
def records(tmp_path):
    """A curve, and another with a gap at 200 tokens."""
    curves = {
        "first": {"tokens": [100, 200, 300, 400], "loss": [9.0, 5.0, 4.0, 3.0]},
        "other": {"tokens": [100, 300, 400], "loss": [1.0, 4.5, 2.75]},
    }
    for name, curve in curves.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"curve": curve}))
    return [tmp_path / f"{name}.json" for name in curves]


def test_means_over_the_tokens_that_both_have(records):
    first, other = records
    _, line = table(first, [other], after=100).splitlines()
    assert line.split() == ["+0.125", "0.375", "2", "other.json"]


def test_what_cannot_be_compared_is_an_error(records):
    first, other = records
    words = message_of(table, first, [other], 400)
    assert words == "--after=400 leaves no number of tokens that both curves have"
    assert "missing.json" in message_of(table, first, [other.with_name("missing.json")], 0)
