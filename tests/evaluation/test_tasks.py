"""Downstream tasks as the harness asks them, on rows of our own, against direct computations."""

import json
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cartesian_moe_jax as cmoe
from cartesian_moe_jax.evaluation import command, of_tasks
from cartesian_moe_jax.evaluation.downstream import library
from cartesian_moe_jax.evaluation.downstream import measured as measured_tasks
from cartesian_moe_jax.evaluation.downstream.answers import Manner
from cartesian_moe_jax.evaluation.downstream.continuation import Score
from cartesian_moe_jax.evaluation.downstream.definitions import Defined, defined
from cartesian_moe_jax.evaluation.downstream.measured import measure
from cartesian_moe_jax.evaluation.of_tasks import AskedTasks, tasks_of_run
from cartesian_moe_jax.evaluation.place import Place
from cartesian_moe_jax.evaluation.tasks_table import line_of_task, tasks_table
from tests import several
from tests.messages import message_of
from tests.task_rows import LAMBADA, PIQA, QUESTIONS, WEBQS, write


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def lm(finished_run):
    return cmoe.load(finished_run.workdir)


@pytest.fixture
def wide(lm):
    """The model with a window that every text here fits, whatever it was trained with."""
    data = lm.config.data.__class__(**{**vars(lm.config.data), "seq_len": 200})
    config = lm.config.__class__(**{**vars(lm.config), "data": data})
    return cmoe.TrainedModel(lm.model, lm.tokenizer, config, lm.step)


def direct(lm, context, continuation):
    """log p(continuation | context) and whether it is greedy, bytes behind an end-of-text token."""
    text = [lm.tokenizer.end_of_text, *context.encode(), *continuation.encode()]
    padded = np.zeros((1, 200), np.int32)
    padded[0, : len(text)] = text
    logits = np.asarray(lm.logits(padded)[0, : len(text) - 1])
    log_probabilities = np.asarray(jax.nn.log_softmax(jnp.asarray(logits)))
    scored = range(len(text) - 1 - len(continuation.encode()), len(text) - 1)
    known = logits[:, : lm.tokenizer.vocab_size]
    greedy = all(int(np.argmax(known[i])) == text[i + 1] for i in scored)
    return sum(float(log_probabilities[i, text[i + 1]]) for i in scored), greedy


def measured(model, names, rows, **options):
    with defined(names, rows, **options) as tasks:
        *_, last = measure(model.harness(), tasks, None)
    return last


def test_a_choice_is_that_of_the_likelihoods(wide, rows):
    right = by_length = 0
    for row in PIQA:
        prompt = f"Question: {row['goal']}\nAnswer:"
        choices = [" " + row["sol1"], " " + row["sol2"]]
        likelihoods = [direct(wide, prompt, choice)[0] for choice in choices]
        per_letter = np.array(likelihoods) / [len(c) - 1 for c in choices]
        right += int(np.argmax(likelihoods)) == row["label"]
        by_length += int(np.argmax(per_letter)) == row["label"]
    found = measured(wide, ["piqa"], rows)["piqa"]
    assert found["metrics"]["acc"]["value"] == right / len(PIQA)
    assert found["metrics"]["acc_norm"]["value"] == by_length / len(PIQA)
    assert (found["examples"], found["of"], found["shots"]) == (4, 4, 0)
    assert found["requests_cut_short"] == 0
    assert (
        found["metrics"]["acc"]["by_chance"] == 0.5
        and "by_chance" not in found["metrics"]["acc_norm"]
    )


def test_the_last_word(wide, rows):
    scores = [direct(wide, row["text"].rsplit(" ", 1)[0], " b") for row in LAMBADA]
    found = measured(wide, ["lambada_openai"], rows)["lambada_openai"]["metrics"]
    expected = math.exp(-np.mean([score for score, _ in scores]))
    assert found["perplexity"]["value"] == pytest.approx(expected, rel=1e-4)
    assert found["acc"]["value"] == np.mean([greedy for _, greedy in scores])
    assert found["perplexity"]["stderr"] > 0


def test_answers_are_compared_with_the_right_ones(wide, rows, monkeypatch):
    """Of what is written the text before a line's end counts."""
    asked = []

    def answers(self, model, questions, advance):
        asked.extend(wide.tokenizer.decode(question.prompt) for question in questions)
        assert {question.manner.until for question in questions} == {("\n", ".", ",")}
        return ["many", " 1", "3"]

    monkeypatch.setattr(of_tasks.AnswerWriter, "answers", answers)
    found = measured(wide, ["nq_open"], rows, shots=2)["nq_open"]
    assert found["metrics"]["exact_match"]["value"] == pytest.approx(2 / 3)
    assert found["shots"] == 2
    for prompt, row in zip(asked, QUESTIONS, strict=True):
        assert prompt.endswith(f"Q: {row['question']}?\nA:")
        assert prompt.count("Q: what was ") == 2 and prompt.count("Q: what is ") == 1


def test_examples_of_several_answers(wide, rows, monkeypatch):
    """WebQs: each example is one question with the first of its answers."""
    asked = []

    def score(self, model, continuations, advance):
        asked.extend(wide.tokenizer.decode(each.context) for each in continuations)
        return [Score(-1.0, True) for _ in continuations]

    monkeypatch.setattr(of_tasks.Scorer, "score", score)
    found = measured(wide, ["webqs"], rows)["webqs"]
    assert (found["shots"], found["metrics"]["exact_match"]["value"]) == (5, 1.0)
    answers = {row["question"]: row["answers"][0] for row in WEBQS}
    for prompt in asked:
        *examples, question = prompt.split("\n\n")
        assert len(examples) == 5 and question.endswith("\nAnswer:")
        for example in examples:
            who, answer = example.removeprefix("Question: ").split("\nAnswer: ")
            assert answer == answers[who]


def request(kind, *arguments):
    return library.library("api.instance").Instance(kind, {}, arguments, 0, ("task", 0, 1))


def test_options_of_answers(lm, monkeypatch):
    manners = []

    def answers(self, model, questions, advance):
        manners.extend(question.manner for question in questions)
        return ["" for _ in questions]

    monkeypatch.setattr(of_tasks.AnswerWriter, "answers", answers)

    def write(**options):
        lm.harness().generate_until([request("generate_until", "a", options)])
        return manners[-1]

    assert write(until=["\n", ""]) == Manner(("\n",), 256, 0.0)
    assert write(until="x", max_new_tokens=3, do_sample=False, top_p=0.5) == Manner(("x",), 3, 0.0)
    assert write(until=[], do_sample=True, temperature=0.5) == Manner((), 256, 0.5)
    with pytest.raises(cmoe.UserError, match="top_k=3: not supported"):
        write(until=[], do_sample=True, temperature=0.5, top_k=3)


def test_a_continuation_whose_tokens_end_in_the_context_is_scored_itself(wide):
    """As where a tokenizer merges the last letter before it with its first."""
    pair = (("th", "e"), [1, 2], [])
    [(log_likelihood, _)] = wide.harness()._loglikelihood_tokens([pair])
    text = [wide.tokenizer.end_of_text, 1, 2]
    logits = wide.logits([text])[0, -1]
    assert log_likelihood == pytest.approx(float(jax.nn.log_softmax(logits)[ord("e")]), rel=1e-4)


def test_whole_texts_in_windows(lm):
    """The harness's windows: beside each other, the last one reaching back."""
    window, text = lm.config.data.seq_len, "def add(a, b):\n    return a + b + 1234\n"
    tokens = [lm.tokenizer.end_of_text, *text.encode()]
    starts = [*range(0, len(tokens) - window - 1, window), len(tokens) - 1 - window]
    scored, total = 0, 0.0
    for start in starts:
        logits = lm.logits([tokens[start : start + window]])[0]
        log_probabilities = np.asarray(jax.nn.log_softmax(logits))
        for i in range(scored - start, window):
            total += float(log_probabilities[i, tokens[start + i + 1]])
        scored = start + window
    [found] = lm.harness().loglikelihood_rolling([request("loglikelihood_rolling", text)])
    assert found == pytest.approx(total, rel=1e-4)


def test_of_a_run_on_all_devices(lm, finished_run, rows, tmp_path, capsys):
    place = Place.of(finished_run.workdir, str(tmp_path / "there.json"))
    command.print_tasks(place, None, AskedTasks("piqa,nq_open", 0, 2, rows), {})
    out, err = capsys.readouterr()
    kept = json.loads((tmp_path / "there.json").read_text())
    assert list(kept["tasks"]) == ["piqa", "nq_open"]
    assert (kept["step"], kept["limit"], kept["window"]) == (20, 2, lm.config.data.seq_len)
    assert kept["tasks"]["piqa"]["examples"] == 2 and kept["tasks"]["piqa"]["shots"] == 0
    alone = measured(lm, ["piqa"], rows)["piqa"]
    assert kept["tasks"]["piqa"]["requests_cut_short"] == 4 < alone["requests_cut_short"]
    header, *table, where = out.splitlines()
    assert header.startswith("task ") and where.endswith("there.json")
    assert [line.split()[:2] for line in table] == [
        ["piqa", "acc"],
        ["piqa", "acc_norm"],
        ["nq_open", "exact_match"],
    ]
    assert [line.split(":")[0] for line in err.splitlines()] == ["piqa", "nq_open"]


def test_what_was_measured_is_kept_when_a_task_fails(finished_run, rows, tmp_path, monkeypatch):
    def answers(self, model, questions, advance):
        raise RuntimeError("no memory")

    monkeypatch.setattr(of_tasks.AnswerWriter, "answers", answers)
    place = Place.of(finished_run.workdir, str(tmp_path))
    with pytest.raises(RuntimeError, match="no memory"):
        command.print_tasks(place, None, AskedTasks("piqa,nq_open", 0, 1, rows), {})
    assert list(json.loads((tmp_path / "downstream.json").read_text())["tasks"]) == ["piqa"]


def test_other_tasks_of_the_same_kind_stay(finished_run, rows, tmp_path):
    place = Place.of(finished_run.workdir, str(tmp_path))

    def kept(name, limit):
        command.print_tasks(place, None, AskedTasks(name, 0, limit, rows), {})
        return list(json.loads((tmp_path / "downstream.json").read_text())["tasks"])

    assert kept("lambada_openai", 2) == ["lambada_openai"]
    assert kept("piqa", 2) == ["lambada_openai", "piqa"]
    assert kept("piqa", 1) == ["piqa"], "of fewer questions"


def test_a_place_that_cannot_be_made_is_found_first(tmp_path):
    (tmp_path / "file").write_text("")
    place = Place.of(tmp_path / "no_run", str(tmp_path / "file" / "a.json"))
    assert str(tmp_path / "file") in message_of(
        command.print_tasks, place, None, AskedTasks("no_such_task"), {}
    )


def test_examples_are_not_drawn_from_the_questions(rows):
    def enter(name, shots):
        with defined([name], rows, shots):
            pass

    assert "lambada_openai/train.jsonl" in message_of(enter, "lambada_openai", 1)
    assert "shots=6 of 6 rows" in message_of(enter, "nq_open", 6)
    enter("nq_open", 5)
    enter("lambada_openai", 0)


def test_wrong_tasks_are_found_before_a_model_is_read(tmp_path, rows, monkeypatch):
    def first(names, folder):
        return next(tasks_of_run(tmp_path / "no_run", None, AskedTasks(names, data=folder), {}))

    assert "no questions of 'hellaswag'" in message_of(first, "piqa,hellaswag", rows)
    (tmp_path / "piqa").mkdir()
    (tmp_path / "piqa" / "validation.jsonl").write_text('{"sol1": "g"}\n')
    assert message_of(first, "piqa", tmp_path).startswith("tasks='piqa': ")
    monkeypatch.setattr(library, "NAME", "no_such_library")
    assert "pip install -e '.[eval]'" in message_of(first, "piqa", rows)


@pytest.mark.long
def test_of_several_processes(finished_run, rows, tmp_path):
    """Split over experts, on all devices of two processes, as on one."""
    arguments = [
        f"--workdir={finished_run.workdir}",
        "--tasks=piqa,nq_open",
        f"--tasks_data={rows}",
    ]
    split = ["--config.parallel.layout=expert_fsdp", "--config.parallel.expert=2"]
    to = f"--to={tmp_path / 'two.json'}"
    first, second = several.run(2, "eval.py", *arguments, *split, to, told=several.by_flags)
    assert (first.status, second.status, second.out) == (0, 0, ""), (first.err, second.err)
    two = json.loads((tmp_path / "two.json").read_text())
    one = next(iter(tasks_of_run(finished_run.workdir, None, AskedTasks("piqa", data=rows), {})))
    assert two["tasks"]["piqa"]["metrics"] == one["tasks"]["piqa"]["metrics"]
    assert two["tasks"]["nq_open"]["examples"] == len(QUESTIONS)


@pytest.mark.long
def test_names_of_the_harness(tmp_path):
    def first(names, folder=None):
        return next(tasks_of_run(tmp_path, None, AskedTasks(names, data=folder), {}))

    assert "did you mean 'hellaswag'" in message_of(first, "helaswag")
    assert "is a group" in message_of(first, "mmlu", tmp_path)


def test_groups_have_numbers_of_their_own_and_tags_have_none(lm, monkeypatch):
    found = {
        "results": {
            "exams": {"acc,strict": 0.5, "acc,loose": 0.75, "acc_stderr,loose": 0.2},
            "first": {"acc,none": 0.25, "acc_stderr,none": 0.1, "alias": " - first"},
        },
        "n-samples": {"first": {"original": 9, "effective": 4}},
        "n-shot": {"first": 2},
        "versions": {"exams": 1, "first": 3.0},
    }
    harness, model = types.SimpleNamespace(evaluate=lambda *_, **__: found), lm.harness()
    monkeypatch.setattr(measured_tasks, "library", lambda name: harness)
    group, tag = measured_tasks.measure(model, [Defined("exams", {}), Defined("tag", {})], None)
    assert group["exams"]["metrics"] == {
        "acc (strict)": {"value": 0.5, "stderr": None},
        "acc (loose)": {"value": 0.75, "stderr": 0.2},
    }
    assert group["first"]["metrics"] == {"acc": {"value": 0.25, "stderr": 0.1}}
    assert [group["first"][each] for each in ("shots", "examples", "of", "version")] == [2, 4, 9, 3]
    assert "seconds" in group["exams"] and "seconds" not in group["first"]
    assert tag["tag"]["metrics"] == {} and tag["first"] == group["first"]
    table = tasks_table(group | tag)
    assert [line.split()[:4] for line in table.splitlines()[1:]] == [
        ["exams", "acc", "(strict)", "0.5000"],
        ["exams", "acc", "(loose)", "0.7500"],
        ["first", "acc", "0.2500", "0.1000"],
    ]
    assert line_of_task("first", group["first"]) == "first: acc 0.2500"
