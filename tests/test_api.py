"""The public face, on a run that was really trained."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cartesian_moe_jax as cmoe
from cartesian_moe_jax.data import ByteTokenizer, evaluation_batches
from cartesian_moe_jax.evaluation.of_run import Asked, evaluate_run
from cartesian_moe_jax.training.loop import prepare
from tests import tiny
from tests.messages import message_of

TOKENS = np.array([list(b"def add_1(a, b)\n"), list(b"def add_2(a, b)\n")])


@pytest.fixture(scope="module")
def lm(finished_run):
    return cmoe.load(finished_run.workdir)


def test_logits_are_those_of_the_model(lm):
    logits = lm.logits(TOKENS)
    assert (logits.shape, logits.dtype) == ((2, 16, 384), jnp.float32)
    direct, _ = jax.jit(lambda model, tokens: model(tokens))(lm.model, jnp.asarray(TOKENS))
    np.testing.assert_allclose(logits, direct, rtol=1e-5, atol=1e-5)


def test_logits_give_the_perplexity_that_the_run_ended_with(lm, finished_run):
    config = finished_run.config
    data = prepare(config, ByteTokenizer())
    what, most = (data.validation[0].tokens, config.data.seq_len, 8), config.evaluation.max_tokens
    batches = evaluation_batches(*what, max_tokens=most)
    nats, count = 0.0, 0
    for tokens, mask in batches:
        log_probabilities = jax.nn.log_softmax(lm.logits(tokens[:, :-1]))
        at_target = np.take_along_axis(np.asarray(log_probabilities), tokens[:, 1:, None], -1)
        nats -= float(at_target[..., 0][mask].sum())
        count += int(mask.sum())
    measured = finished_run.result["validation"]
    assert measured["tokens"] == count
    assert measured["loss"] == pytest.approx(nats / count, rel=1e-4)
    assert measured["perplexity"] == pytest.approx(math.exp(nats / count), rel=1e-3)
    assert measured["perplexity"] < 100 < 384, "training must have taught something"


def test_eval_measures_what_the_run_ended_with(finished_run):
    evaluation = evaluate_run(finished_run.workdir)
    assert evaluation["step"] == 20
    for name, value in finished_run.result["validation"].items():
        assert evaluation[name] == pytest.approx(value, rel=1e-6)
    assert evaluation["data_hash"] == finished_run.result["data"]["content_hash"]


def test_generated_text_continues_the_prompt(lm):
    text = lm.generate("def ", max_new_tokens=8, seed=1)
    assert text.startswith("def ")
    assert len(text) > len("def ")
    assert text == lm.generate("def ", max_new_tokens=8, seed=1)
    assert text == lm.generate(list(b"def "), max_new_tokens=8, seed=1)
    assert lm.generate("def ", max_new_tokens=0) == "def "


def test_several_prompts_are_continued_at_once(lm):
    prompts = ["def ", list(b"return a"), ""]
    texts = lm.generate(prompts, max_new_tokens=6, temperature=0.0)
    assert texts == [lm.generate(prompt, 6, temperature=0.0) for prompt in prompts]
    assert texts[1].startswith("return a") and lm.generate(["def "], 0) == ["def "]


def test_generated_text_takes_the_most_likely_token(lm):
    text = lm.generate("def ", max_new_tokens=1, temperature=0.0)
    logits = lm.logits(np.array([[256, *b"def "]]))[0, -1, :257]
    assert text.encode() == b"def " + bytes([int(jnp.argmax(logits))])


def test_no_prompts_give_no_texts_and_arrays_are_prompts(lm):
    assert lm.generate([]) == lm.generate(np.zeros((0, 3), int)) == []
    text = lm.generate("ab", 3)
    assert lm.generate(np.array([97, 98]), 3) == text
    assert lm.generate(np.array([[97, 98]]), 3) == [text]
    assert lm.generate(jnp.array([[97, 98]]), 3) == lm.generate(["ab"], 3) == [text]
    assert lm.generate((97, np.int64(98)), 3) == text


@pytest.mark.parametrize(
    "wrong",
    [[1.5], ["a", 1], [["a"]], [None], np.zeros((1, 1, 1), int), np.array([0.5]), [True], [b"a"]],
)
def test_what_is_no_prompt_is_one_line_that_says_what_is(lm, wrong):
    message = message_of(lm.generate, wrong, 1)
    assert message.startswith("prompt=")
    assert "a text, token ids (whole numbers), or a list of texts and lists of token ids" in message


@pytest.mark.parametrize("seed", [2**70, 99999999999999999999999, -1, 2**32])
def test_a_seed_out_of_range_is_one_line(lm, seed):
    assert message_of(lm.generate, "def ", 1, seed=seed).startswith(f"seed={seed} is not allowed")
    assert lm.generate("def ", 1, seed=2**32 - 1)


def test_perplexity_of_texts_is_that_of_eval_on_them(lm, finished_run, tmp_path):
    texts = [tiny.TEXT[:500], " \n", "naïve 日本 " * 9, "x"]
    rows = [json.dumps({"text": text}) + "\n" for text in texts]
    (tmp_path / "texts.jsonl").write_text("".join(rows))
    for stride in (0, 5):
        asked = Asked(f"text:{tmp_path}/texts.jsonl", stride=stride, max_tokens=0)
        expected = evaluate_run(finished_run.workdir, asked=asked)
        found = lm.perplexity(texts, stride=stride).as_dict()
        assert found == pytest.approx({k: expected[k] for k in found}, rel=1e-5)
    one = lm.perplexity("ab")
    assert (one.tokens, one.text_bytes) == (2, 2), "an end-of-text token is predicted too"
    assert one == lm.perplexity(["ab"])


@pytest.mark.parametrize("wrong", [[], [" \n"], ["a", 3], [["a"]]])
def test_perplexity_of_no_text_is_one_line(lm, wrong):
    assert message_of(lm.perplexity, wrong).startswith("texts")
    assert "stride=17 must be 1 to seq_len=16" in message_of(lm.perplexity, "abc", stride=17)


@pytest.mark.parametrize("wrong", [-1, 384, 2**70])
def test_a_token_outside_the_vocabulary_is_an_error(lm, wrong):
    with pytest.raises(cmoe.UserError, match=f"token id {wrong} is not allowed: 0 to 383"):
        lm.logits([[1, wrong]])
    with pytest.raises(cmoe.UserError, match=f"token id {wrong} is not allowed"):
        lm.generate([1, wrong], max_new_tokens=1)


@pytest.mark.parametrize(
    "wrong", [{"temperature": -0.5}, {"temperature": math.nan}, {"max_new_tokens": -1}]
)
def test_negative_numbers_are_errors(lm, wrong):
    with pytest.raises(cmoe.UserError, match="at least 0"):
        lm.generate("def ", **wrong)


def test_a_folder_without_a_run_is_an_error(tmp_path):
    for open_run in (cmoe.load, evaluate_run):
        with pytest.raises(cmoe.UserError, match="holds no run"):
            open_run(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_step_without_checkpoint_is_an_error(finished_run):
    for open_run in (cmoe.load, evaluate_run):
        with pytest.raises(cmoe.UserError, match=r"step=7 has no checkpoint in .*: there are 20"):
            open_run(finished_run.workdir, step=7)
