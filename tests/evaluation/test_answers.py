"""Answers to many questions, from models whose next token is known by construction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cartesian_moe_jax.data import ByteTokenizer
from cartesian_moe_jax.evaluation.downstream.answers import (
    AnswerWriter,
    Manner,
    Question,
    before,
)
from cartesian_moe_jax.models.parameters import named_parameters, with_parameters
from cartesian_moe_jax.parallel.mesh import make_mesh, replicated, single_device_mesh
from tests import tiny

TOKENIZER = ByteTokenizer()
VOCAB, WINDOW = 384, 32
ORDER = "abcdefgh.ij\nkl"
"""What the model writes, over and over."""
CONFIG = tiny.model_config(num_layers=1, d_model=16, vocab_size=VOCAB, moe={"interval": 0})
GREEDY = Manner((".", "\n"), 20, 0.0)


def reciting_model():
    """After a letter of ORDER comes the next one; after the end-of-text token its first."""
    parameters = {
        name: jnp.zeros_like(value) if name.startswith("segments/") else value
        for name, value in named_parameters(tiny.model(CONFIG)).items()
    }
    letters = [*ORDER.encode()]
    embedding, head = np.zeros((VOCAB, 16), np.float32), np.zeros((16, VOCAB), np.float32)
    for i, letter in enumerate(letters):
        embedding[letter, i] = 1.0
        head[i, letters[(i + 1) % len(letters)]] = 10.0
    embedding[TOKENIZER.end_of_text, 15] = 1.0
    head[15, letters[0]] = 10.0
    crafted = {"embedding": jnp.asarray(embedding), "head": jnp.asarray(head)}
    return with_parameters(tiny.model(CONFIG), parameters | crafted)


def question(text, manner=GREEDY):
    return Question([TOKENIZER.end_of_text, *text.encode()], manner)


def answers(questions, tokens=64, mesh=None, advance=lambda count: None):
    mesh = mesh or single_device_mesh()
    writer = AnswerWriter(TOKENIZER, mesh, tokens=tokens, window=WINDOW)
    model = jax.device_put(reciting_model(), replicated(mesh))
    with jax.set_mesh(mesh):
        return writer.answers(model, questions, advance)


def test_an_answer_ends_before_what_ends_it():
    assert answers([question("a"), question("i"), question("")]) == ["bcdefgh", "j", "abcdefgh"]


@pytest.mark.parametrize("tokens", [1, 64, 10_000])
def test_many_questions_of_many_lengths_and_manners(tokens):
    short = Manner((), 3, 0.0)
    odd = Manner(("d", "ef"), 9, 0.0)
    texts = ["a" * (1 + i % 40) + ORDER[i % 8] for i in range(30)]
    manners = [(GREEDY, short, odd)[i % 3] for i in range(30)]
    written = []
    found = answers([*map(question, texts, manners)], tokens, advance=written.append)
    for text, manner, answer in zip(texts, manners, found, strict=True):
        endless = (ORDER * 3)[ORDER.index(text[-1]) + 1 :][: manner.max_new_tokens]
        assert answer == before(endless, manner.until)
    assert sum(written) == len(texts)


def test_what_is_written_goes_on_beyond_the_window():
    manner = Manner((), 3 * WINDOW, 0.0)
    [found] = answers([question("ab", manner)])
    assert found == (ORDER * 10)[2 : 2 + 3 * WINDOW]


def test_most_of_a_prompt_is_read():
    writer = AnswerWriter(TOKENIZER, single_device_mesh(), tokens=64, window=WINDOW)
    assert writer.room(Manner((), 4, 0.0)) == WINDOW - 4
    assert writer.room(Manner((), 1000, 0.0)) == WINDOW * 3 // 4


def test_writing_stops_when_all_have_ended(monkeypatch):
    asked = []
    decode = ByteTokenizer.decode
    monkeypatch.setattr(
        ByteTokenizer, "decode", lambda self, tokens: asked.append(1) or decode(self, tokens)
    )
    assert answers([question("h"), question("j")]) == ["", ""]
    assert len(asked) == 4, "one token each, and the two answers"


def test_on_several_devices():
    mesh = make_mesh(tiny.parallel(data=-1))
    assert answers([question("a"), question("g")], mesh=mesh) == ["bcdefgh", "h"]


def test_drawn_answers_are_the_same_again():
    manner = Manner((), 12, 5.0)
    first, again = (answers([question("a", manner)]) for _ in range(2))
    assert first == again != answers([question("a", Manner((), 12, 0.0))])


def test_the_same_question_is_answered_anew():
    """In whichever batch."""
    found = answers([question("a", Manner((), 12, 1000.0))] * 12, tokens=3 * WINDOW)
    assert len(set(found)) == 12


@pytest.mark.parametrize(
    "text, ends, expected",
    [("a.b,c", (",", "."), "a"), ("abc", (".",), "abc"), ("abc", (), "abc"), (".", (".",), "")],
)
def test_the_first_end_counts(text, ends, expected):
    assert before(text, ends) == expected
