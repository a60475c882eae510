"""What like settings say of the noise, and which comparisons are read together."""

import dataclasses
import math

import pytest

from cartesian_moe_jax.study.comparison import compare
from cartesian_moe_jax.study.family import family_of
from cartesian_moe_jax.study.noise import noise_of
from cartesian_moe_jax.study.statistics import smallest_gap
from tests.study import records

OFFSET = "model.moe.offset=1"
LOSSES = {
    "smoe_share": [3.0, 3.1, 3.2],
    "cartesian": [3.1, 3.1, 3.4],
    "dense": [3.3],
    f"smoe_share+{OFFSET}": [4.0, 4.4],
    f"cartesian+{OFFSET}": [4.0, 4.0],
    f"hash+{OFFSET}": [4.1, 4.1],
    "cartesian+model.moe.sublayers=3": [5.0, 9.0, 7.0],
}


def study(*bases):
    runs = []
    for variant, losses in LOSSES.items():
        for seed, loss in enumerate(losses):
            run = records.compared("smoe_share", seed, validation={"loss": loss})
            runs.append(dataclasses.replace(run, variant=variant))
    return compare(runs, bases or ["smoe_share"])


def test_noise_is_pooled_within_like_settings_alone():
    """The lone variant with three sub-layers, which scatters most, is in no group."""
    plain, moved = noise_of(study())
    assert (plain.changes, plain.variants, plain.pairs, plain.counts) == ("", 2, 1, [3])
    assert plain.seeds.sd == pytest.approx(math.sqrt((0.01 + 0.03) / 2))
    assert plain.paired.sd == pytest.approx(0.1)  # differences .1, 0, .2
    assert (moved.changes, moved.variants, moved.pairs) == (OFFSET, 3, 3)
    # Differences 0 and .4 twice, and 0 and 0: variances .08, .08, 0.
    assert moved.paired.sd == pytest.approx(math.sqrt(0.16 / 3))
    assert moved.smallest_gaps() == {2: smallest_gap(moved.paired.sd, 2)}


def test_a_base_with_changed_fields_is_compared_in_its_own_setting():
    found = study()
    plain = family_of(found, "cartesian", found.losses)
    assert set(plain.differences) == set(LOSSES) - {"cartesian"}
    assert plain.size == len(LOSSES) - 2  # dense has one seed
    moved = family_of(found, f"cartesian+{OFFSET}", found.losses)
    assert set(moved.differences) == {f"smoe_share+{OFFSET}", f"hash+{OFFSET}"}
    alone = family_of(found, "cartesian+model.moe.sublayers=3", found.losses)
    assert set(alone.differences) == set(LOSSES) - {"cartesian+model.moe.sublayers=3"}


def test_holms_verdict_is_for_the_number_of_comparisons():
    found = study()
    family = family_of(found, f"cartesian+{OFFSET}", found.losses)
    hashed = f"hash+{OFFSET}"
    assert family.differences[hashed].p == pytest.approx(0, abs=1e-9)
    assert family.adjusted_verdict(hashed) == "higher"
    other = family.differences[f"smoe_share+{OFFSET}"]
    assert family.adjusted()[f"smoe_share+{OFFSET}"] == pytest.approx(other.p)
    assert family.adjusted_verdict(f"smoe_share+{OFFSET}") == "not told apart"
    one = family._replace(differences={hashed: other._replace(p=0.03)})
    assert one.adjusted_verdict(hashed) == "higher"
    two = {hashed: other._replace(p=0.03), "b": other._replace(p=0.04)}
    assert family._replace(differences=two).adjusted_verdict(hashed) == "not told apart"
