"""What is said before a run whose numbers are hardly meant."""

import pytest

from cartesian_moe_jax.data.prepared import prepare_data
from cartesian_moe_jax.data.tokenizers import resolve_tokenizer
from cartesian_moe_jax.models.vocabulary import with_vocabulary
from cartesian_moe_jax.training.notes import notes
from tests import tiny


@pytest.fixture(scope="module")
def noted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notes")

    def lines(**sections):
        config = tiny.config(folder, **sections)
        tokenizer = resolve_tokenizer(config.data.tokenizer, "")
        data = prepare_data(config.data, tokenizer, config.data.cache_dir)
        return notes(with_vocabulary(config, tokenizer.vocab_size), data)

    return lines


def test_nothing_is_said_of_an_ordinary_run(noted):
    assert noted() == []
    assert noted(model={"vocab_size": 0}) == []


def test_a_text_that_is_read_very_often_is_named(noted):
    # 24,000 bytes of text, 128 tokens a step.
    (line,) = noted(training={"steps": 100_000})
    assert line.startswith("note: config.training.steps reads text:")
    passes = int(line.split()[-3].replace(",", ""))
    assert 400 < passes < 800


def test_a_vocabulary_that_no_text_uses_is_named(noted):
    (line,) = noted(model={"vocab_size": 32_000})
    assert line == (
        "note: config.model.vocab_size=32000 is more than the 257 tokens of "
        "config.data.tokenizer=bytes: the rest is never used"
    )
