"""Rows of tasks from a folder."""

import json
from pathlib import Path

from cartesian_moe_jax.evaluation.downstream.definitions import names_of
from cartesian_moe_jax.evaluation.downstream.paper_tasks import PAPER_TASKS
from cartesian_moe_jax.evaluation.downstream.task_data import fields_of, files_of
from tests.messages import message_of

STORIES = PAPER_TASKS["storycloze_2016"].columns
ROW = ["id", "One.", "Two, too.", "Three.", "Four.", "Good end.", "Bad end.", "2"]


def put(folder, name, text=""):
    (folder / "task").mkdir(exist_ok=True)
    mark = "utf-8-sig" if name.endswith(".csv") else "utf-8"  # as spreadsheets write it
    (folder / "task" / name).write_text(text, encoding=mark)
    return folder / "task" / name


def test_each_split_has_a_file(tmp_path):
    train, test = (put(tmp_path, f"{split}.jsonl", "{}\n") for split in ("train", "test"))
    put(tmp_path, "notes.txt")
    assert files_of(tmp_path, "task") == {"train": train, "test": test}
    fields = fields_of(tmp_path, "task", {}, tmp_path)
    assert fields["dataset_kwargs"]["data_files"]["train"] == str(train)
    assert [fields[f"{s}_split"] for s in ("training", "validation", "test")] == [
        "train",
        None,
        "test",
    ]


def test_rows_that_are_missing_or_there_twice(tmp_path):
    message = message_of(files_of, tmp_path, "task")
    assert f"{tmp_path / 'task'}/ with validation.jsonl" in message
    put(tmp_path, "train.jsonl")
    assert "no rows" in message_of(fields_of, tmp_path, "task", {}, tmp_path)
    put(tmp_path, "test.jsonl"), put(tmp_path, "test.csv")
    assert "twice" in message_of(files_of, tmp_path, "task")


def test_the_official_file_of_stories(tmp_path):
    put(tmp_path, "validation.csv", ",".join(STORIES) + "\n" + ",".join(f'"{c}"' for c in ROW))
    fields = fields_of(tmp_path, "task", STORIES, tmp_path)
    [file] = fields["dataset_kwargs"]["data_files"].values()
    [row] = map(json.loads, Path(file).read_text().splitlines())
    assert row == dict(zip(STORIES.values(), [*ROW[:-1], 2], strict=True))


def test_a_table_that_lacks_columns(tmp_path):
    file = put(tmp_path, "validation.csv", "InputStoryid,InputSentence1\na,b")
    message = message_of(fields_of, tmp_path, "task", STORIES, tmp_path)
    assert message.startswith(f"{file} lacks answer_right_ending, input_sentence_2")
    put(tmp_path, "validation.csv", ",".join(STORIES) + "\na,b")
    assert "row 1 has not as many values" in message_of(
        fields_of, tmp_path, "task", STORIES, tmp_path
    )
    put(tmp_path, "validation.csv")
    assert "lacks" in message_of(fields_of, tmp_path, "task", STORIES, tmp_path)


def test_lines_that_are_no_rows(tmp_path):
    def message(text):
        put(tmp_path, "test.jsonl", text)
        return message_of(fields_of, tmp_path, "task", {}, tmp_path)

    file = tmp_path / "task" / "test.jsonl"
    assert message("") == f"{file} has no rows"
    for text in ("{}\nnot\n", "{}\n[1]\n", "{}\n\n{}\n"):
        assert message(text).startswith(f"{file}: line 2 is no JSON object")
    file.write_bytes(b"\xff\xfe{}")
    assert message_of(fields_of, tmp_path, "task", {}, tmp_path) == f"{file} is not UTF-8"


def test_names():
    assert names_of("paper") == list(PAPER_TASKS)
    assert names_of("arc_easy, paper,piqa,arc_easy") == ["arc_easy", *PAPER_TASKS]
    for wrong in ("", " , "):
        assert "not allowed" in message_of(names_of, wrong)
