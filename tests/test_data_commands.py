"""prepare, train_tokenizer, and runs on what they make, as a user calls them."""

import json
import subprocess
import sys

import numpy as np
import pytest
from backports import zstd

import cartesian_moe_jax as cmoe
from cartesian_moe_jax import __main__ as command_line
from cartesian_moe_jax import config as schema
from cartesian_moe_jax.data import parse_corpus
from cartesian_moe_jax.data.tokenizers import resolve_tokenizer
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.evaluation.of_run import Asked, evaluate_run
from cartesian_moe_jax.training.loop import train
from configs import pile
from tests import processes, tiny

WORDS = ("moon", "rose", "over", "a", "quiet", "sea", "and", "every", "ship", "turned", "light")


def sentences(seed, count):
    rng = np.random.default_rng(seed)
    return " ".join(rng.choice(WORDS, count))


def write_books(file, seed, count=120):
    rows = [{"text": sentences(seed + i, 60), "shelf": "AB"[i % 2]} for i in range(count)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def books(tmp_path_factory):
    """A folder with books.jsonl and other.jsonl, and a tokenizer trained on the first."""
    folder = tmp_path_factory.mktemp("books")
    write_books(folder / "books.jsonl", 0)
    write_books(folder / "other.jsonl", 1000, 40)
    corpus, cache = f"--corpus=text:{folder}/books.jsonl", f"{folder}/cache"
    run("train_tokenizer", corpus, "--vocab_size=300", f"--to={folder}/bpe.json", cache=cache)
    return folder


def run(*arguments, cache):
    """Run a verb in this process."""
    parsed = command_line.parse([*arguments, f"--config.data.cache_dir={cache}", "--workers=1"])
    parsed.run(parsed)


def prepare(books, *arguments):
    flags = [f"--config.data.corpus=text:{books}/books.jsonl", *arguments]
    run("prepare", *flags, f"--config.data.tokenizer={books}/bpe.json", cache=books / "cache")


def test_a_tokenizer_is_trained_on_training_text_alone(books, tmp_path, capsys):
    tokenizer = resolve_tokenizer(str(books / "bpe.json"))
    assert 257 < tokenizer.vocab_size <= 300
    text = sentences(5, 200)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode(text)) < len(text) / 2
    # One more document that is held out changes nothing; one that is not, does.
    share = "--config.data.validation_share=0.5"
    sizes = []
    for name in ("a", "b"):
        corpus = f"--corpus=text:{books}/{'books' if name == 'a' else 'other'}.jsonl"
        target = f"--to={tmp_path}/{name}.json"
        run("train_tokenizer", corpus, "--vocab_size=270", target, share, cache=books / "cache")
        sizes.append(int(capsys.readouterr().out.split("documents")[0].split()[-1]))
    assert 30 < sizes[0] < 90
    assert sizes[1] < sizes[0]


def test_prepare_says_what_it_made_and_makes_it_once(books, capsys):
    prepare(books)
    first = capsys.readouterr()
    assert "preparing text:" in first.err
    for words in ("tokenizer   bpe", "documents", "bytes/token", "packed  ", "ready after"):
        assert words in first.out
    prepare(books)
    second = capsys.readouterr()
    assert "preparing" not in second.err
    assert [line for line in second.out.splitlines() if "ready" not in line] == [
        line for line in first.out.splitlines() if "ready" not in line
    ]


def test_prepare_counts_broken_lines_where_that_is_asked_for(books, tmp_path, capsys):
    good = (books / "books.jsonl").read_text()
    (tmp_path / "b.jsonl").write_text(good + '{"text": \n' + good + "[]\n")
    corpus = f"--config.data.corpus=text:{tmp_path}/b.jsonl"
    with pytest.raises(UserError, match=r"b\.jsonl:121 is not .*broken_lines=skip"):
        run("prepare", corpus, cache=tmp_path / "cache")
    run("prepare", corpus, "--config.data.broken_lines=skip", cache=tmp_path / "cache")
    assert "2 broken lines skipped, the first: " in capsys.readouterr().out


WRONG = [
    (["prepare", "--config=configs/nowhere.py"], "nowhere.py"),
    (["prepare", "--config.data.corpsu=text:x"], "corpsu"),
    (["prepare", "--config.data.corpus=text:/nowhere"], "no files found"),
    (["prepare", "--config.data.tokenizer=/nowhere/t.json"], "/nowhere/t.json"),
    (["prepare", "--config=configs/pile.py"], "FOLDER"),
    (["train_tokenizer", "--vocab_size=100", "--to=t.json"], "vocab_size=100"),
    (["train_tokenizer", "--vocab_size=300", "--to=/nowhere/t.json"], "/nowhere"),
]


@pytest.mark.parametrize("arguments, words", WRONG)
def test_wrong_input_is_one_line(tmp_path, arguments, words):
    with pytest.raises(UserError) as caught:
        run(*arguments, cache=tmp_path / "cache")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_verbs_without_a_config_refuse_what_they_do_not_know(capsys):
    with pytest.raises(SystemExit):
        command_line.parse(["describe_config", "--config.data.corpus=x"])
    assert "unrecognized arguments" in capsys.readouterr().err


INTERRUPTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
from cartesian_moe_jax import __main__ as command_line
from cartesian_moe_jax.data import packing
packing.JOB_BYTES, packing.JOURNAL_SECONDS, tokenized = 2000, 0.0, packing.Packing._tokenized
def interrupted(self, *arguments):
    for number, reply in enumerate(tokenized(self, *arguments)):
        if number == 5:
            os.kill(os.getpid(), signal.SIGINT)
        yield reply
packing.Packing._tokenized = interrupted
command_line.main()
"""


def test_ctrl_c_says_that_the_command_continues_and_it_does(books, tmp_path, capsys):
    corpus = f"--config.data.corpus=text:{books}/books.jsonl"
    cache = f"--config.data.cache_dir={tmp_path}/cache"
    command = [sys.executable, "-c", INTERRUPTED, "prepare", corpus, cache, "--workers=2"]
    done = subprocess.run(command, cwd=processes.ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[-1] == "stopped: the same command continues"
    (partial,) = (tmp_path / "cache").glob(".text-*.tmp")
    assert json.loads((partial / "journal.json").read_text())["next"] > 0
    run("prepare", corpus, cache=tmp_path / "cache")
    assert "ready after" in capsys.readouterr().out
    assert not partial.exists()


def values(books, tmp_path, **sections):
    """A tiny run on the books with the trained tokenizer."""
    data = {
        "corpus": f"text:{books}/books.jsonl",
        "cache_dir": str(books / "cache"),
        "tokenizer": str(books / "bpe.json"),
        "workers": 1,
    }
    own = {"data": data, "model": {"vocab_size": 0}, "training": {"steps": 6}}
    own["parallel"] = {"data": -1}
    return processes.values(tmp_path, **tiny.merged(own, sections))


@pytest.fixture(scope="module")
def bpe_run(books, tmp_path_factory):
    """A run on BPE tokens, and the values of its config."""
    folder = tmp_path_factory.mktemp("bpe_run")
    mine = values(books, folder)
    outcome = train(schema.read(mine), folder / "run")
    assert outcome.result["tokens"] == 6 * 8 * 16
    return folder / "run", mine, outcome.result


def test_the_tokenizer_travels_with_the_run(books, bpe_run, tmp_path):
    workdir, _, result = bpe_run
    tokenizer = resolve_tokenizer(str(books / "bpe.json"))
    assert result["data"]["tokenizer"] == tokenizer.identity()
    assert resolve_tokenizer(str(workdir / "tokenizer.json")).identity() == tokenizer.identity()
    lm = cmoe.load(workdir)
    assert lm.tokenizer.identity() == tokenizer.identity()
    assert lm.generate("the moon", max_new_tokens=3).startswith("the moon")
    bits = result["validation"]["bits_per_byte"]
    assert 0 < bits < 8
    assert result["baseline"]["bits_per_byte"] > 0


def test_a_run_goes_on_without_its_tokenizer_file_but_not_with_another(books, bpe_run, tmp_path):
    _, mine, _ = bpe_run
    own = tmp_path / "own.json"
    own.write_bytes((books / "bpe.json").read_bytes())
    mine = tiny.merged(mine, {"data": {"tokenizer": str(own)}})
    target = tmp_path / "run"
    train(schema.read(mine), target)
    own.unlink()
    assert train(schema.read(mine), target).was_done
    corpus = f"--corpus=text:{books}/other.jsonl"
    run("train_tokenizer", corpus, "--vocab_size=290", f"--to={own}", cache=books / "cache")
    with pytest.raises(
        UserError, match=r"has the tokenizer bpe .* but config.data.tokenizer=.*bpe"
    ):
        train(schema.read(mine), target)
    with pytest.raises(UserError, match=r"has the tokenizer bpe .*bytes"):
        train(schema.read(tiny.merged(mine, {"data": {"tokenizer": "bytes"}})), target)


def test_a_run_on_packed_data_needs_the_tokenizer_that_packed_it(books, bpe_run, tmp_path):
    _, mine, result = bpe_run
    packed = next((books / "cache").glob("text-*/metadata.json")).parent
    for folder in (books / "cache").glob("text-*"):
        metadata = json.loads((folder / "metadata.json").read_text())
        if metadata["tokenizer"] == result["data"]["tokenizer"] and not metadata["split"]:
            packed = folder
    mine = tiny.merged(mine, {"data": {"corpus": f"packed:{packed}"}})
    outcome = train(schema.read(mine), tmp_path / "run")
    assert outcome.result["validation"] == result["validation"]
    with pytest.raises(UserError, match=r"has the tokenizer bpe .* but config.data.tokenizer"):
        wrong = tiny.merged(mine, {"data": {"tokenizer": "bytes"}})
        train(schema.read(wrong), tmp_path / "wrong")


def test_any_corpus_is_evaluated_with_the_tokenizer_of_the_run(books, bpe_run):
    workdir, _, result = bpe_run
    own = evaluate_run(workdir)
    assert own["perplexity"] == pytest.approx(result["validation"]["perplexity"], rel=1e-5)
    other = evaluate_run(workdir, None, Asked(corpus=f"text:{books}/other.jsonl", max_tokens=0))
    assert (other["split"], other["stride"]) == ("all", 16)
    texts = [json.loads(line)["text"] for line in (books / "other.jsonl").open()]
    tokens = sum(len(resolve_tokenizer(str(books / "bpe.json")).encode(t)) + 1 for t in texts)
    assert other["tokens"] == tokens - 1
    nats = other["loss"] * other["tokens"]
    assert np.log(other["word_perplexity"]) == pytest.approx(nats / sum(60 for _ in texts))
    assert np.log(other["byte_perplexity"]) == pytest.approx(nats / sum(map(len, texts)))
    strided = evaluate_run(
        workdir, None, Asked(corpus=f"text:{books}/other.jsonl", stride=4, max_tokens=0)
    )
    assert strided["tokens"] == other["tokens"]
    assert strided["loss"] != other["loss"]
    with pytest.raises(UserError, match=r"split='test' is unknown.*train, validation, all"):
        evaluate_run(workdir, None, Asked(corpus=f"text:{books}/other.jsonl", split="test"))
    with pytest.raises(UserError, match="stride=17 must be 1 to seq_len=16"):
        evaluate_run(workdir, None, Asked(stride=17))


def test_a_mixture_is_trained_on_and_each_source_is_measured(books, tmp_path):
    corpus = (
        f"0.75*text:{books}/books.jsonl,where=shelf:A + 0.25*text:{books}/other.jsonl,name=other"
    )
    mine = values(books, tmp_path, data={"corpus": corpus}, evaluation={"every": 3})
    result = train(schema.read(mine), tmp_path / "run").result
    assert set(result["data"]["train_tokens"]) == {"A", "other"}
    by_source = result["validation"]["by_source"]
    assert result["validation"]["loss"] == pytest.approx(
        0.75 * by_source["A"]["loss"] + 0.25 * by_source["other"]["loss"]
    )
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert any("validation/other/loss" in record for record in records)


def test_with_a_validation_corpus_nothing_is_held_out(books, tmp_path):
    data = {"validation_corpus": f"text:{books}/other.jsonl"}
    result = train(schema.read(values(books, tmp_path, data=data)), tmp_path / "run").result
    tokenizer = resolve_tokenizer(str(books / "bpe.json"))
    texts = [json.loads(line)["text"] for line in (books / "books.jsonl").open()]
    (tokens,) = result["data"]["train_tokens"].values()
    assert tokens == sum(len(tokenizer.encode(text)) + 1 for text in texts)
    assert evaluate_run(tmp_path / "run")["corpus"] == data["validation_corpus"]


def test_the_pile_preset_mixes_the_22_domains_of_a_copy(tmp_path, capsys):
    assert pile.AUTHORS.keys() == pile.PUBLISHED.keys()
    assert len(pile.AUTHORS) == 22
    assert sum(pile.PUBLISHED.values()) == pytest.approx(1)
    (tmp_path / "train").mkdir()
    domains = list(pile.AUTHORS)
    for name in ("train/00.jsonl.zst", "train/01.jsonl.zst", "val.jsonl.zst"):
        rows = [
            {"text": f"{domain} {sentences(i, 30)}", "meta": {"pile_set_name": domain}}
            for i, domain in enumerate(domains * 2)
        ]
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        (tmp_path / name).write_bytes(zstd.compress(data))
    preset = [f"--config=configs/pile.py:{tmp_path}", "--config.data.tokenizer=bytes"]
    run("prepare", *preset, cache=tmp_path / "cache")
    lines = capsys.readouterr().out.splitlines()
    shares = {line[12:30].strip(): line for line in lines if line.startswith("train ")}
    assert list(shares) == domains
    assert f" {0.2823 / sum(pile.AUTHORS.values()):.2%} " in shares["PubMed Central"]
    assert sum("4 documents" in line for line in shares.values()) == 22
    assert len([line for line in lines if line.startswith("packed ")]) == 2, "one pass for all"
    published = parse_corpus(pile.get_config(f"{tmp_path},published").data.corpus)
    assert {c.name: c.weight for c in published} == pytest.approx(pile.PUBLISHED)
    with pytest.raises(UserError, match=r"'mine' is unknown: allowed are authors, published"):
        pile.get_config(f"{tmp_path},mine")
