"""Corpora said with absolute paths: the same text from any working folder, and nothing else."""

import pytest

from cartesian_moe_jax.data import parse_corpus
from cartesian_moe_jax.data.sources.places import absolute_corpus, absolute_path
from cartesian_moe_jax.errors import UserError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return str(tmp_path)


@pytest.mark.parametrize(
    "spec",
    [
        "python_stdlib",
        "python_stdlib:,name=python",
        "text:/books/*.txt,field=content",
        "text:~/books,gs://bucket/books/*.txt",
        "tfds:lm1b,split=train[:10%]",
        "packed:gs://bucket/tokens",
        "0.70*text:/a,/b,name=a  +  3e-1*tfds:c4/en",
    ],
)
def test_what_is_no_relative_path_stays(spec):
    assert absolute_corpus(spec) == spec.replace("  ", " ")


def test_relative_paths_become_absolute(here, tmp_path):
    (tmp_path / "prepared").mkdir()
    cases = {
        "text:books": f"text:{here}/books",
        "text:./books/*.txt, /b,../c": f"text:{here}/books/*.txt,/b,{here}/../c",
        "text:a.jsonl,where=meta.domain:Wikipedia (en),name=w": (
            f"text:{here}/a.jsonl,where=meta.domain:Wikipedia (en),name=w"
        ),
        "packed:tokens,where=shelf:A": f"packed:{here}/tokens,where=shelf:A",
        "tfds:prepared,field=body": f"tfds:{here}/prepared,field=body",
        "0.30*text:a + .7*packed:b,name=c": f"0.30*text:{here}/a + .7*packed:{here}/b,name=c",
    }
    for spec, expected in cases.items():
        assert absolute_corpus(spec) == expected
        assert absolute_corpus(expected) == expected
        weights = [component.weight for component in parse_corpus(spec)]
        assert [component.weight for component in parse_corpus(expected)] == weights


def test_a_working_folder_that_cannot_be_said_is_left_out(tmp_path, monkeypatch):
    for name in ("a,b", "a + b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert absolute_corpus("text:books") == "text:books"


def test_other_settings(here):
    assert absolute_path("cache/data") == f"{here}/cache/data"
    for same in ("", "/x", "~/x", "gs://bucket/x"):
        assert absolute_path(same) == same
    with pytest.raises(UserError, match="'txt' is unknown"):
        absolute_corpus("txt:books")
