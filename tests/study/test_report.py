"""The report: what it says, and what it does not."""

import dataclasses
import re

import pytest

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.study.comparison import compare
from cartesian_moe_jax.study.family import family_of
from cartesian_moe_jax.study.report import SECTIONS, require_report_packages, write_report
from cartesian_moe_jax.study.tables import probability
from tests.study import records

RANKING = re.compile(
    r"\*\*|<strong>|<b>|\bbest\b|\bbetter than\b|\bwins?\b|\brank(s|ed|ing)?\b", re.I
)


BASES = ("smoe_share", "cartesian")


def written(folder, runs, *bases):
    files = write_report(folder, runs, bases or BASES, records.ABOUT)
    assert all(file.is_file() for file in files)
    return (folder / "report.md").read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, written(folder, records.study())


def section(text, title):
    return re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", text, re.M | re.S)[1]


def row(text, start):
    """The cells of the first table row that starts with these."""
    [line, *_] = [line for line in text.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_all_sections_come_in_order(whole):
    assert len(re.findall("^## ", whole[1], re.M)) == len(SECTIONS)


def test_table_1_has_what_was_measured_beside_what_was_published(whole):
    text = section(whole[1], "Table 1 of the paper, as measured here")
    cells = row(text, "`cartesian`")
    losses = [records.compared("cartesian", seed).validation["loss"] for seed in range(3)]
    assert f"{sum(losses) / 3:.4f} ±" in cells[7]
    assert cells[1:7] == ["27.04", "13.01", "26.10", "4.00", "0.001 (experts 2x)", "3"]
    assert cells[-2:] == ["7.19", "6.08"]
    assert row(text, "`top_p`")[4] == "2.60"
    assert row(text, f"`{records.THREE}`")[-2:] == ["-", "-"]


def test_a_gap_is_called_by_its_direction_and_stated(whole):
    text = section(whole[1], "Paired differences in validation loss")
    assert row(text, "`cartesian`")[1] == "lower"
    assert row(text, "`dense`")[1] == "higher"
    assert "Outcome: In this study the validation loss of `cartesian` is lower" in text
    assert "| minus `cartesian` |" in text


def noisy(variant, seed):
    run = records.compared(variant, seed)
    swing = {"smoe_share": 0.0, "cartesian": (0.2, -0.25, 0.02)[seed]}[variant]
    return dataclasses.replace(run, validation=run.validation | {"loss": 3.6 + swing})


def test_verdicts_stand_beside_those_that_are_left_by_holms_correction(whole):
    text = section(whole[1], "Paired differences in validation loss")
    cells = row(text, "`cartesian`")
    family = family_of(compare(records.study(), BASES), "smoe_share", losses_of)
    assert cells[2] == family.adjusted_verdict("cartesian")
    difference, adjusted = family.differences["cartesian"], family.adjusted()["cartesian"]
    assert cells[5:] == [f"{difference.p:.3f}", f"{adjusted:.3f}", "3"]
    assert f"for the {family.size} comparisons of its table: {cells[2]}." in text


def test_a_small_p_is_not_shown_as_none():
    shown = [probability(p) for p in (0.0004, 0.0011, 1.0, None)]
    assert shown == ["&lt;0.001", "0.001", "1.000", "-"]


def losses_of(variant):
    return {seed: records.compared(variant, seed).validation["loss"] for seed in range(3)}


def test_every_interval_with_a_verdict_is_counted(whole):
    """Of these tables the cell behind the interval is p, and - where there is none."""
    rows = [line.split(" | ") for line in whole[1].splitlines() if line.startswith("| ")]
    verdicts = {"lower", "higher", "not told apart"}
    count = sum(len(cells) == 8 and cells[1] in verdicts and cells[5] != "-" for cells in rows)
    said = re.search(r"This report has (\d+) intervals with a verdict, in (\d+) tables", whole[1])
    # One more stands in the sentence below the paper's table 3.
    assert [int(number) for number in said.groups()] == [count + 1, 3]
    assert f"{0.05 * (count + 1):.2g} of {count + 1} would be called" in whole[1]


def test_each_base_has_its_table(tmp_path):
    alike = [
        dataclasses.replace(records.compared(v, s), variant=f"{v}+model.moe.offset=1")
        for v in ("smoe_share", "cartesian")
        for s in range(2)
    ]
    base = "cartesian+model.moe.offset=1"
    text = written(tmp_path, [*records.study(), *alike], "dense", base, "hash")
    text = section(text, "Paired differences in validation loss")
    own = text.split(f"| minus `{base}` |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `([^`]+)` ", own, re.M) == ["smoe_share+model.moe.offset=1"]
    assert "| minus `dense` |" in text and "| minus `cartesian` |" not in text
    assert "No variant shares a seed with `hash`: no differences to it." in text


def test_what_the_interval_does_not_settle_is_not_ranked(tmp_path):
    runs = [noisy(variant, seed) for variant in ("smoe_share", "cartesian") for seed in range(3)]
    text = written(tmp_path, runs)
    differences = section(text, "Paired differences in validation loss")
    assert row(differences, "`cartesian`")[1] == "not told apart"
    assert "This study does not tell `cartesian` and `smoe_share` apart" in differences
    assert not re.search(r"^\|.*\| (lower|higher) \|", differences, re.M)
    assert not RANKING.search(text)


def test_the_whole_report_sets_nothing_in_bold(whole):
    assert not RANKING.search(whole[1])


def test_one_seed_has_no_intervals_and_says_so(tmp_path):
    text = written(tmp_path, records.study(seeds=(0,)))
    assert "There is one seed only." in text
    assert not re.search(r"^\|.*\| (lower|higher) \|", text, re.M)
    assert row(section(text, "Paired differences in validation loss"), "`dense`")[4:7] == ["-"] * 3
    assert "±" not in section(text, "Table 1 of the paper, as measured here").split("\n\n")[1]
    assert "too few to say anything" in text
    assert "would find with probability" not in text


def test_failed_runs_count_nowhere_but_are_listed(whole):
    _, text = whole
    assert row(section(text, "Table 1 of the paper, as measured here"), "`top_p`")[6] == "3"
    failed = section(text, "Runs").split("\n\n")[1]
    assert "out of memory" in failed
    assert "lr &lt;too&gt; high" in failed
    assert "out of memory" not in text.replace(failed, "")


def test_table_4_has_the_rise_and_its_range(whole):
    text = section(whole[1], "Table 4 of the paper: when routing goes wrong")
    rises = [
        trial["loss_rise"]
        for seed in range(3)
        for trial in records.compared("cartesian", seed).robustness
        if (trial["kind"], trial["where"], trial["amount"]) == ("disabled", "all", 1)
    ]
    cells = row(text, "`cartesian`")
    assert cells[3] == "1 of 2" and row(text, "`top_p`")[3] == "1 of 2.6"
    assert cells[5] == f"{sum(rises) / 3:+.3f} ({min(rises):+.3f}..{max(rises):+.3f})"
    assert cells[-2:] == ["27.72", "+1.517"]
    assert "Not defined or not tested for `dense`." in text
    assert f"| `{records.THREE}` | sublayer 2 |" in text


def test_the_choice_of_rates_is_shown_with_its_doubts(whole):
    text = section(whole[1], "Tuning of the learning rates")
    assert row(text, "`dense`")[1:4] == ["4.3100", "4.2000 (c)", "4.2500"]
    assert row(text, "`smoe_share`")[3] == "failed"
    assert "`dense`: the choice lies inside the grid." in text
    assert "`cartesian`: the chosen learning rate, 0.001, is the highest that was tried" in text
    assert "8.19 million tokens" in text


def test_rates_that_were_given_are_told_from_those_that_were_tuned(tmp_path):
    pinned = "cartesian+optimizer.expert_rate=2"
    runs = [dataclasses.replace(records.compared("cartesian", 0), variant=pinned)]
    runs += [dataclasses.replace(records.tuned("cartesian", 0.001, 4.5, 2.0), variant=pinned)]
    runs += [records.compared("dense", 0), records.compared("top_p", 0), *records.tuning()[:3]]
    text = written(tmp_path, runs)
    table = section(text, "Table 1 of the paper, as measured here")
    assert row(table, "`dense`")[5] == "0.001"
    assert row(table, "`top_p`")[5] == "0.001, given"
    assert row(table, f"`{pinned}`")[5] == "0.001 (experts 2x), experts' given"
    tuning = section(text, "Tuning of the learning rates")
    assert "- `top_p`: not tuned, the rates were given: 0.001." in tuning
    assert f"- `{pinned}`: the rate of the experts was given." in tuning
    assert "measured on the same validation text" in tuning


def test_a_choice_other_than_the_lowest_loss_is_named(tmp_path):
    runs = [records.compared("dense", 0)]
    runs += [records.tuned("dense", rate, loss) for rate, loss in ((0.001, 4.5), (0.004, 4.1))]
    text = written(tmp_path, runs, "dense")
    assert "`dense`: the lowest loss in tuning was at 0.004." in text


def test_deviations_from_the_budget_are_in_percent(whole):
    text = section(whole[1], "Matching")
    assert row(text, "`cartesian`")[-4:] == ["27.040", "+0.15%", "13.010", "+0.08%"]
    assert row(text, "`dense`")[-4:] == ["13.120", "-", "13.120", "+0.92%"]


def test_what_the_runs_have_in_common_is_no_more_than_that(whole):
    text = section(whole[1], "Matching")
    assert row(text, "`optimizer.learning_rate`") == ["`optimizer.learning_rate`", "`0.001`"]
    assert row(text, "`model.num_layers`")[1] == "`8`"
    assert row(text, "`data.end_of_text`")[1] == "(empty)"
    for field in ("optimizer.expert_rate", "model.moe.sublayers", "model.moe.d_expert"):
        assert f"| `{field}` |" not in text
    assert "`active_parameters`" not in text


def test_disagreements_are_noted(tmp_path, whole):
    assert "The compared runs agree on the machine" in whole[1]
    other = records.compared(
        "dense", 1, machine={"device_kind": "H200", "devices": 1}, rates={"learning_rate": 0.5}
    )
    text = section(written(tmp_path, [records.compared("dense", 0), other], "dense"), "Runs")
    assert "Seeds of `dense` differ in their rates: 0.001 in seed 0, 0.5 in seed 1." in text
    assert "differ in `device_kind` of the machine" in text


def test_what_was_not_measured_is_left_out_and_said(tmp_path):
    bare = {"curve": {}, "routing_use": None, "robustness": None}
    runs = [records.compared(v, s, **bare) for v in ("dense", "cartesian") for s in (0, 1)]
    text = written(tmp_path, runs, "dense")
    for line in (
        "No run was tested for this.",
        "No training loss was kept.",
        "The records hold no tuning runs",
        "No load was measured.",
        "No variant with several sub-layers was measured.",
        "`cartesian_noshared` was not measured.",
        "No run failed.",
    ):
        assert line in text
    assert not list((tmp_path / "pictures").iterdir())
    assert "nan" not in text


@pytest.mark.parametrize("runs", [[], records.tuning(), records.study(seeds=())], ids=len)
def test_a_study_without_compared_runs_still_has_a_report(tmp_path, runs):
    assert "No compared run was measured" in written(tmp_path, runs)


def test_a_reference_without_runs_is_said(tmp_path):
    runs = [records.compared(v, s) for v in ("dense", "cartesian") for s in (0, 1)]
    text = written(tmp_path, runs, "smoe_share")
    assert "No variant shares a seed with `smoe_share`: no differences to it." in text


def test_settings_that_differ_stop_the_report(tmp_path):
    runs = [records.compared("dense", 0), records.compared("top_p", 0, setting={"steps": 1})]
    with pytest.raises(UserError, match="setting"):
        write_report(tmp_path, runs, BASES, {})
    assert not list(tmp_path.iterdir())


def test_the_pictures_of_the_text_are_there_and_no_others(whole):
    folder, text = whole
    named = re.findall(r"!\[[^\]]+\]\((pictures/[\w.]+\.svg)\)\n\n\*\S", text)
    assert len(named) == 7
    assert {folder / name for name in named} == set((folder / "pictures").iterdir())


def test_pictures_of_an_earlier_report_are_removed_and_nothing_else(tmp_path):
    written(tmp_path, records.study())
    (tmp_path / "pictures" / "mine.png").write_bytes(b"kept")
    (tmp_path / "mine.svg").write_text("kept")
    bare = {"curve": {}, "routing_use": None, "robustness": None}
    written(tmp_path, [records.compared("dense", 0, **bare)], "dense")
    assert [file.name for file in (tmp_path / "pictures").iterdir()] == ["mine.png"]
    assert (tmp_path / "mine.svg").exists()


def test_the_end_of_a_grid_is_told_from_its_inside(tmp_path):
    """Multipliers are tried at one learning rate only: the others say nothing of their end."""
    tried = [(0.001, 1, 4.4), (0.002, 1, 4.3), (0.004, 1, 4.5), (0.002, 2, 4.2), (0.002, 4, 4.1)]
    rates = {"learning_rate": 0.002, "expert_rate": 4.0}
    runs = [records.compared("cartesian", 0, rates=rates)]
    runs += [records.tuned("cartesian", rate, loss, float(times)) for rate, times, loss in tried]
    text = section(written(tmp_path, runs, "cartesian"), "Tuning of the learning rates")
    assert "the chosen rate of the experts, 4, is the highest that was tried" in text
    assert "the chosen learning rate" not in text
    beyond = records.tuned("cartesian", 0.002, 4.15, 8.0)
    text = section(written(tmp_path, [*runs, beyond], "cartesian"), "Tuning of the learning rates")
    assert "`cartesian`: the choice lies inside the grid." in text


def test_a_report_is_the_same_each_time(whole, tmp_path):
    folder, _ = whole
    written(tmp_path, records.study()[::-1])
    for file in folder.rglob("*.*"):
        assert (tmp_path / file.relative_to(folder)).read_bytes() == file.read_bytes(), file.name


def test_a_missing_package_is_one_line(monkeypatch):
    require_report_packages()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "markdown" else 1)
    with pytest.raises(UserError, match="pip install markdown"):
        require_report_packages()
