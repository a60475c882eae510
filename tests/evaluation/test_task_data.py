"""Rows of tasks from a folder."""

import json
from pathlib import Path

import pytest

from cartesian_moe_jax.evaluation.downstream.definitions import names_of
from cartesian_moe_jax.evaluation.downstream.paper_tasks import PAPER_TASKS
from cartesian_moe_jax.evaluation.downstream.task_data import fields_of
from tests.messages import message_of

STORIES = PAPER_TASKS["storycloze_2016"].table
ROW = ["id", "One.", "Two, too.", "Three.", "1984", "Good end.", "Bad end.", "2"]
TESTED = {"test_split": "test"}
ROLES = ("training_split", "validation_split", "test_split", "fewshot_split")


def put(folder, name, text="", encoding=None):
    (folder / "task").mkdir(exist_ok=True)
    mark = "utf-8-sig" if name.endswith(".csv") else "utf-8"  # as spreadsheets write it
    (folder / "task" / name).write_text(text, encoding=encoding or mark)
    return folder / "task" / name


def fields(folder, definition=TESTED, table=None):
    return fields_of(folder, "task", definition, table, folder)


def refusal(folder, definition=TESTED, table=None):
    return message_of(fields_of, folder, "task", definition, table, folder)


@pytest.mark.parametrize(
    "definition, expected",
    [
        # A test split that the task does not have is not asked: its answers may be missing.
        ({"training_split": "train", "validation_split": "validation"}, ["train", "validation"]),
        ({"validation_split": "val", "test_split": "test"}, ["train", "val", "test"]),
        ({"test_split": "test", "fewshot_split": "dev"}, ["train", None, "test", "dev"]),
        ({"test_split": "test", "fewshot_split": "missing"}, ["train", None, "test", None]),
    ],
)
def test_the_splits_that_a_definition_names_have_files(tmp_path, definition, expected):
    for split in ("train", "validation", "val", "dev", "test", "notes"):
        put(tmp_path, f"{split}.jsonl", '{"a": 1}\n')
    found = fields(tmp_path, definition)
    expected = [*expected, *[None] * (4 - len(expected))]
    assert [found[role] for role in ROLES] == expected
    files = found["dataset_kwargs"]["data_files"]
    wanted = {each: str(tmp_path / "task" / f"{each}.jsonl") for each in expected if each}
    assert files == wanted


def test_a_folder_whose_name_is_a_pattern(tmp_path):
    folder = tmp_path / "a[1]"
    folder.mkdir()
    put(folder, "test.jsonl", '{"a": 1}\n')
    assert fields(folder)["dataset_kwargs"]["data_files"]["test"].endswith(
        "/a[[]1]/task/test.jsonl"
    )


def test_questions_that_are_missing_or_there_twice(tmp_path):
    assert f"{tmp_path / 'task'}/ with test.jsonl" in refusal(tmp_path)
    put(tmp_path, "train.jsonl", '{"a": 1}\n')
    message = refusal(tmp_path, {"validation_split": "val", "test_split": None}, STORIES)
    assert "no questions" in message and message.endswith("with val.jsonl or val.csv")
    put(tmp_path, "test.jsonl"), put(tmp_path, "test.csv")
    assert "twice" in refusal(tmp_path, table=STORIES)


def test_lines_that_are_no_rows(tmp_path):
    def message(text, encoding="utf-8"):
        file = put(tmp_path, "test.jsonl", text, encoding)
        return refusal(tmp_path).removeprefix(f"{file}")

    assert message("") == " has no rows"
    for text in ('{"a": 1}\nnot\n', '{"a": 1}\n[1]\n', '{"a": 1}\n\n{}\n'):
        assert message(text) == ": line 2 is no JSON object"
    assert message('{"a": 1, "b": 2}\n{"b": 2, "c": 3}\n') == ": line 2 lacks a"
    assert message('{"é": 1}', "latin-1") == " is not UTF-8"


def test_the_official_file_of_stories(tmp_path):
    text = ",".join(STORIES.columns) + "\n" + ",".join(f'"{cell}"' for cell in ROW)
    put(tmp_path, "test.csv", text)
    [file] = fields(tmp_path, table=STORIES)["dataset_kwargs"]["data_files"].values()
    [row] = map(json.loads, Path(file).read_text().splitlines())
    assert row == dict(zip(STORIES.columns.values(), [*ROW[:-1], 2], strict=True))


@pytest.mark.parametrize(
    "text, words",
    [
        ("InputStoryid,InputSentence1\na,b", "lacks rows, or the columns AnswerRightEnding"),
        ("", "lacks rows"),
        (",".join(STORIES.columns) + "\na,b", "row 1 has not as many values"),
        (
            ",".join(STORIES.columns) + "\n" + ",".join(["x"] * 8),
            "row 1 has answer_right_ending='x': no number",
        ),
    ],
)
def test_a_table_of_another_form(tmp_path, text, words):
    file = put(tmp_path, "test.csv", text)
    message = refusal(tmp_path, table=STORIES)
    assert message.startswith(str(file)) and words in message
    put(tmp_path, "test.csv", "é", "latin-1")
    assert refusal(tmp_path, table=STORIES) == f"{file} is not UTF-8"


def test_names():
    assert names_of("paper") == list(PAPER_TASKS)
    assert names_of("arc_easy, paper,piqa,arc_easy") == ["arc_easy", *PAPER_TASKS]
    for wrong in ("", " , "):
        assert "not allowed" in message_of(names_of, wrong)
