import pytest

from cartesian_moe_jax.data.sources.local_files import LocalFiles, PythonStdlib
from cartesian_moe_jax.data.sources.source import Options, Source, spec_of, undivided
from cartesian_moe_jax.data.sources.spec import SOURCES, Packed, parse_corpus, parse_source
from cartesian_moe_jax.data.sources.tfds import Tfds
from tests.messages import message_of

PILE = "text:/pile/*.jsonl.zst,where=meta.pile_set_name:Wikipedia (en)"


@pytest.mark.parametrize(
    ("spec", "source"),
    [
        ("python_stdlib", PythonStdlib("")),
        ("python_stdlib:name=std", PythonStdlib("", Options(name="std"))),
        ("text:/a.txt", LocalFiles("/a.txt")),
        ("text:/a,/b c/*.jsonl,field=story", LocalFiles("/a,/b c/*.jsonl", Options("story"))),
        ("text:gs://bucket/a=b,name=x=y", LocalFiles("gs://bucket/a=b", Options(name="x=y"))),
        (
            PILE,
            LocalFiles("/pile/*.jsonl.zst", Options(where="meta.pile_set_name:Wikipedia (en)")),
        ),
        ("tfds:c4/en", Tfds("c4/en")),
        (
            "tfds:wikipedia/20230601.en,split=train[:10%]+test,name=wiki",
            Tfds("wikipedia/20230601.en", Options(split="train[:10%]+test", name="wiki")),
        ),
        (
            "tfds:/data/lm1b/1.1.0,field=t,where=url:https://x,split=train,name=n",
            Tfds("/data/lm1b/1.1.0", Options("t", "url:https://x", "train", "n")),
        ),
        ("packed:gs://bucket/pile", Packed("gs://bucket/pile")),
        ("packed:/a,where=set:ArXiv", Packed("/a", Options(where="set:ArXiv"))),
    ],
)
def test_a_source_and_its_string_are_the_same(spec, source):
    assert parse_source(spec) == source
    assert type(parse_source(spec)) is type(source)
    assert spec_of(source) == spec
    (component,) = parse_corpus(spec)
    assert component == (1.0, source)


def test_white_space_around_places_and_options_does_not_matter():
    options = Options("story", name="n")
    assert parse_source("  text:/a, field=story , name=n ") == LocalFiles("/a", options)
    assert parse_source("text:/a,field=text") == parse_source("text:/a")


def test_sources_are_sources():
    for kind, source in SOURCES.items():
        assert source.kind == kind
        assert set(source.allowed) <= set(Options().__dict__)
    assert isinstance(LocalFiles("/a"), Source)
    assert isinstance(Tfds("c4"), Source)


def test_what_is_packed_together_has_one_string():
    assert undivided(parse_source(PILE + ",name=wiki")) == (
        "text:/pile/*.jsonl.zst,where=meta.pile_set_name"
    )
    assert undivided(parse_source("text:/a,name=mine")) == "text:/a"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("txt:/data", ["data.corpus='txt' is unknown", "packed, python_stdlib, text, tfds"]),
        ("", ["data.corpus='' is unknown"]),
        ("/data/books", ["data.corpus='/data/books' is unknown"]),
        ("text:/a,split=train", ["'text:/a,split=train'", "text takes no split=", "field, where"]),
        ("python_stdlib:field=text", ["python_stdlib takes no field=", "allowed: name"]),
        ("text:/a,feild=story", ["text takes no feild=", "did you mean 'field'"]),
        ("text:/a,field=a,field=b", ["has field= twice"]),
        ("packed:", ["'packed:' needs the folder"]),
        ("packed:/a,field=text", ["packed takes no field=", "allowed: where, name"]),
        ("text:/a,where=domain", ["where=domain must be FIELD:VALUE"]),
        ("text:/a,where=domain:", ["where=domain: must be FIELD:VALUE"]),
        ("text:/a,where=:web", ["where=:web must be FIELD:VALUE"]),
        ("text:/a\nb,where=", ["where= must be FIELD:VALUE"]),
    ],
)
def test_what_is_wrong_with_a_source_is_named(spec, words):
    message = message_of(parse_source, spec)
    assert all(word in message for word in words), message
    assert message_of(parse_corpus, spec) == message


@pytest.mark.parametrize(
    ("spec", "weights"),
    [
        ("0.7*text:/a + 0.3*tfds:c4/en", [0.7, 0.3]),
        ("7*text:/a + 3*tfds:c4/en", [0.7, 0.3]),
        (" 1 * text:/a  +  1e0 *tfds:c4/en ", [0.5, 0.5]),
        ("7e-1*text:/a + 3.0E-1*tfds:c4/en", [0.7, 0.3]),
        (".5*text:/a + +1.5*tfds:c4/en", [0.25, 0.75]),
        ("1e-300*text:/a + 3e-300*tfds:c4/en", [0.25, 0.75]),
    ],
)
def test_weights_of_a_mixture_are_shares(spec, weights):
    components = parse_corpus(spec)
    assert [component.weight for component in components] == pytest.approx(weights)
    assert [component.source for component in components] == [LocalFiles("/a"), Tfds("c4/en")]


def test_one_weighted_source_is_a_mixture_of_one():
    assert parse_corpus("0.25*python_stdlib") == ((1.0, PythonStdlib("")),)


def test_a_source_may_be_in_a_mixture_by_its_domains():
    spec = f"0.1*{PILE} + 0.9*text:/pile/*.jsonl.zst,where=meta.pile_set_name:ArXiv,name=papers"
    wiki, papers = parse_corpus(spec)
    assert wiki.source.options.group == ("meta.pile_set_name", "Wikipedia (en)")
    assert papers.source.options.group == ("meta.pile_set_name", "ArXiv")
    assert (wiki.name, papers.name) == ("Wikipedia (en)", "papers")
    assert parse_corpus("text:/a")[0].name == "text:/a"


@pytest.mark.parametrize(
    "spec",
    [
        "tfds:c4/en,split=train[:10%]+test",
        "tfds:c4/en,split=train[:10%]+test[5:],name=a+b",
        "text:/data/*.txt",
        "text:/data/3*4.txt",
        "text:/a+b.txt,name=c++",
        PILE,
    ],
)
def test_plus_and_star_inside_a_source_make_no_mixture(spec):
    (component,) = parse_corpus(spec)
    assert component.weight == 1.0
    assert spec_of(component.source) == spec


def test_split_expressions_stay_whole_in_a_mixture():
    spec = "1*tfds:c4/en,split=train[:10%]+test + 3*tfds:lm1b,split=test+train"
    first, second = parse_corpus(spec)
    assert (first.source.options.split, second.source.options.split) == (
        "train[:10%]+test",
        "test+train",
    )


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("0.5*text:/a + text:/b", "text:/b"),
        ("text:/a + text:/b", "text:/a"),
        ("0*text:/a", "0*text:/a"),
        ("1*text:/a + 0.0*text:/b", "0.0*text:/b"),
        ("-1*text:/a + 1*text:/b", "-1*text:/a"),
        ("nan*text:/a + 1*text:/b", "nan*text:/a"),
        ("1*text:/a + inf*text:/b", "inf*text:/b"),
        ("1*text:/a + 1e999*text:/b", "1e999*text:/b"),
        ("1*text:/a + 1.2.3*text:/b", "1.2.3*text:/b"),
        ("e*text:/a", "e*text:/a"),
        ("1*text:/a + ", ""),
        (" + 1*text:/a", ""),
        ("1*text:/a + *text:/b", "*text:/b"),
    ],
)
def test_a_weight_of_a_mixture_must_be_above_0(spec, part):
    message = message_of(parse_corpus, spec)
    assert message.startswith(f"data.corpus: {part!r} of a mixture must be WEIGHT*SOURCE")


def test_what_is_wrong_with_a_source_of_a_mixture_is_named():
    assert "data.corpus='txt'" in message_of(parse_corpus, "1*text:/a + 2*txt:/b")
    assert "data.corpus=''" in message_of(parse_corpus, "1*text:/a + 2*")
    assert "takes no split=" in message_of(parse_corpus, "1*text:/a,split=train + 2*text:/b")


def test_a_file_may_have_a_name_like_an_option(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "year=2020.txt").write_text("text")
    assert parse_source("text:year=2020.txt").place == "year=2020.txt"
