"""Generation, from models whose next token is known by construction, and from a random one."""

import jax.numpy as jnp
import numpy as np
import pytest

from cartesian_moe_jax.evaluation.generation import Writer
from cartesian_moe_jax.models.parameters import named_parameters, with_parameters
from tests import tiny

D_MODEL, WINDOW = 16, 8
TOKENS, PADDED = 16, 24
CONFIG = tiny.model_config(num_layers=1, init_std=1.0, vocab_size=PADDED, moe={"interval": 0})
WRITER = Writer(WINDOW, TOKENS)


def random_model():
    return tiny.model(CONFIG)


def crafted_model(embedding, head):
    """A model whose layers do nothing: logits = head^T RMSNorm(embedding of the last token)."""
    parameters = {
        name: jnp.zeros_like(value) if name.startswith("segments/") else value
        for name, value in named_parameters(random_model()).items()
    }
    crafted = {"embedding": jnp.asarray(embedding, jnp.float32), "head": jnp.asarray(head)}
    return with_parameters(random_model(), parameters | crafted)


def counting_model(padding_logit=0.0):
    """After token i comes i + 1 (modulo 16), with near certainty."""
    embedding = np.eye(PADDED, D_MODEL)
    head = np.full((D_MODEL, PADDED), padding_logit, np.float32)
    head[:, :TOKENS] = 10 * np.roll(np.eye(TOKENS), 1, axis=1)
    return crafted_model(embedding, head)


def weighing_model(weights):
    """Every token has the same distribution, whatever came before."""
    head = np.full((D_MODEL, PADDED), -100.0, np.float32)
    head[:, : len(weights)] = np.log(weights)
    return crafted_model(np.ones((PADDED, D_MODEL)), head / D_MODEL)


def generate(model, prompt, length, temperature=1.0, seed=0, **options):
    return together(model, [prompt], length, temperature, seed, **options)[0]


def together(model, prompts, length, temperature=1.0, seed=0, writer=WRITER, **options):
    return writer.write(model, prompts, length, temperature=temperature, seed=seed, **options)


def by_reading_whole(model, prompt, length):
    """The most likely tokens, each by a pass over the last WINDOW of the text, all of it at first.

    Where these are full, the last half of them is what the following are read with.
    """
    text, first = list(prompt), max(0, len(prompt) - WINDOW)
    for i in range(length):
        if i and len(text) - first > WINDOW:
            first = len(text) - WINDOW // 2
        logits, _ = model(jnp.asarray([text[first:]]))
        text.append(int(jnp.argmax(logits[0, -1, :TOKENS])))
    return text[len(prompt) :]


def test_the_most_likely_token_each_time():
    assert generate(counting_model(), [3], 6, temperature=0.0) == [4, 5, 6, 7, 8, 9]
    assert generate(counting_model(), [3], 0) == []


def test_zero_temperature_reads_no_seed():
    texts = [generate(random_model(), [3], 12, temperature=0.0, seed=seed) for seed in (0, 1)]
    assert texts[0] == texts[1]


def test_the_seed_decides_what_is_drawn():
    first, again, other = (generate(random_model(), [3], 20, seed=seed) for seed in (5, 5, 6))
    assert first == again != other


def test_draws_of_one_text_differ_from_each_other():
    assert len(set(generate(weighing_model(np.ones(TOKENS) / TOKENS), [3], 30))) > 5


def test_stops_at_end_of_text_and_leaves_it_out():
    assert generate(counting_model(), [3], 20, end_of_text=7) == [4, 5, 6]
    assert generate(counting_model(), [7, 3], 20, end_of_text=4) == []


def test_only_the_last_window_of_a_long_prompt_is_seen():
    rng = np.random.default_rng(0)
    tail, model = rng.integers(0, TOKENS, WINDOW).tolist(), random_model()
    texts = [
        generate(model, rng.integers(0, TOKENS, length).tolist() + tail, 12, temperature=0.0)
        for length in (0, 1, 30)
    ]
    assert texts[0] == texts[1] == texts[2]
    assert texts[0] != generate(model, tail[:-1], 12, temperature=0.0)


def test_padded_vocabulary_is_never_drawn_even_where_it_is_most_likely():
    for temperature in (0.0, 1.0):
        drawn = generate(counting_model(padding_logit=50.0), [3], 8, temperature)
        assert drawn == [4, 5, 6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_temperature_shapes_the_distribution(temperature):
    weights = np.array([0.6, 0.3, 0.1])
    drawn = generate(weighing_model(weights), [0], 400, temperature)
    expected = weights ** (1 / temperature) / np.sum(weights ** (1 / temperature))
    # Three standard deviations of a share among 400 draws are below 0.08.
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 400, expected, atol=0.08)


@pytest.mark.parametrize("length", [1, 5, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW])
def test_texts_are_those_of_passes_over_the_whole_window(length):
    prompt = np.random.default_rng(length).integers(0, TOKENS, length).tolist()
    model = random_model()
    text = generate(model, prompt, 3 * WINDOW, temperature=0.0)
    assert text == by_reading_whole(model, prompt, 3 * WINDOW)
    assert len(set(text)) > 3, "a text that repeats itself shows little"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_texts_together_are_those_alone(temperature):
    rng = np.random.default_rng(4)
    prompts = [rng.integers(0, TOKENS, length).tolist() for length in (3, 1, 7, 20)]
    model = random_model()
    texts = together(model, prompts, 2 * WINDOW, temperature)
    # Random numbers are a text's own by its place; those that come first have the same alone.
    for count in (1, 2):
        assert texts[:count] == together(model, prompts[:count], 2 * WINDOW, temperature)
    alone = [together(model, [prompt], 2 * WINDOW, temperature)[0] for prompt in prompts]
    assert (texts == alone) == (temperature == 0.0)


def test_texts_of_equal_prompts_differ():
    texts = together(weighing_model(np.ones(TOKENS) / TOKENS), [[3]] * 4, 10)
    assert len(set(map(tuple, texts))) == 4


def test_each_text_ends_by_itself():
    texts = together(counting_model(), [[3], [5], [9]], 6, end_of_text=7)
    assert texts == [[4, 5, 6], [6], [10, 11, 12, 13, 14, 15]]


def test_a_window_of_one_token():
    writer = Writer(1, TOKENS)
    assert together(counting_model(), [[3]], 5, writer=writer) == [[4, 5, 6, 7, 8]]


def test_rows_for_a_mesh_draw_the_same_tokens():
    writer, prompts = Writer(WINDOW, TOKENS, parts=4), [[3, 5], [4]]
    for seed in range(4):
        expected = together(random_model(), prompts, 4, seed=seed)
        assert together(random_model(), prompts, 4, seed=seed, writer=writer) == expected
