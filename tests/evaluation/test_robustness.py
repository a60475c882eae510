"""The trials of a robustness test, and their table."""

import matplotlib
import pytest

from cartesian_moe_jax import config as schema
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.evaluation.of_run import evaluate_run, robustness_of_run
from cartesian_moe_jax.evaluation.robustness import robustness_table, trials
from cartesian_moe_jax.evaluation.robustness_picture import check_picture, draw_robustness
from tests import tiny


def kinds(**moe):
    config = schema.read(tiny.values(model={"moe": {"num_experts": 8, **moe}}))
    return [(t.kind, t.where, t.amount) for t in trials(config)]


def test_every_kind_is_tried_in_all_sub_layers_and_in_one_at_a_time():
    found = kinds()
    assert found[0] == ("none", "all", 0)
    for count in (1, 2, 3):
        for where in ("all", "sublayer 0", "sublayer 1"):
            assert ("disabled", where, count) in found
    assert [share for kind, _, share in found if kind == "random"] == [0.1, 0.25, 0.5, 1.0]
    removed = [where for kind, where, _ in found if kind == "removed"]
    assert len(removed) == len(set(removed)) == 32


def test_what_is_not_defined_is_not_tried():
    one_sublayer = kinds(sublayers=1)
    assert not [where for _, where, _ in one_sublayer if where.startswith("sublayer")]
    few = kinds(num_experts=4)
    assert max(amount for kind, _, amount in few if kind == "disabled") == 2
    by_token = kinds(router="hash", balance_loss=0.0)
    assert {kind for kind, _, _ in by_token} == {"none", "random", "removed"}
    with pytest.raises(UserError, match="--robustness is not defined for a model without"):
        kinds(interval=0)


def test_a_run_is_measured_and_its_table_has_the_published_number(finished_run):
    noted = []
    result = robustness_of_run(finished_run.workdir, note=noted.append)
    first, *others = result["trials"]
    assert len(noted) == len(result["trials"])
    undisturbed = evaluate_run(finished_run.workdir)
    assert first["perplexity"] == pytest.approx(undisturbed["perplexity"], rel=1e-6)
    assert first["loss_rise"] == 0
    for trial in others:
        assert trial["loss_rise"] == pytest.approx(trial["loss"] - first["loss"])
    assert any(trial["loss_rise"] != 0 for trial in others)
    table = robustness_table(result["trials"])
    assert "top-1 experts disabled" in table
    assert "100% of tokens at random" in table
    assert "one expert removed (8 tried)" in table


RECORDS = [
    {"kind": "none", "where": "all", "amount": 0, "perplexity": 5.0, "loss_rise": 0.0},
    {"kind": "disabled", "where": "all", "amount": 1, "perplexity": 9.0, "loss_rise": 0.6},
    {"kind": "random", "where": "all", "amount": 0.5, "perplexity": 7.0, "loss_rise": 0.3},
    {"kind": "removed", "where": "expert", "amount": 1, "perplexity": 5.1, "loss_rise": 0.02},
]


@pytest.mark.parametrize("form, start", [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_the_picture_names_its_trials(tmp_path, form, start):
    draw_robustness(RECORDS, tmp_path / f"a.{form}")
    assert (tmp_path / f"a.{form}").read_bytes().startswith(start)
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # letters, not outlines
        draw_robustness(RECORDS, tmp_path / "letters.svg")
    text = (tmp_path / "letters.svg").read_text()
    for words in ("top-1 experts disabled, all", "50% of tokens at random, all", "one expert"):
        assert words in text


def test_another_kind_of_picture_is_refused_before_anything_is_measured(tmp_path):
    check_picture(tmp_path / "a.svg")
    with pytest.raises(UserError, match="must end in one of svg, png, pdf"):
        check_picture(tmp_path / "a.jpg")
