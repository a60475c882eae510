"""The records of a study, sorted by what they are good for."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.models.methods import METHODS
from cartesian_moe_jax.study.record import COMPARISON, TUNING, Record
from cartesian_moe_jax.study.setting import difference


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Measured runs by variant and seed, and what surrounds them."""

    runs: Mapping[str, Mapping[int, Record]]
    """variant -> seed -> run; variants in the order of METHODS, then by name; seeds sorted."""
    bases: Sequence[str]
    """What the variants are compared with; the first is the reference of all sections."""
    tuning: Sequence[Record]
    """Measured or not."""
    records: Sequence[Record]
    """All that was given."""

    def values(
        self, variant: str, measure: Callable[[Record], int | float | None]
    ) -> dict[int, float]:
        """Return ``measure`` of each seed of a variant, where it is not None."""
        found = {seed: measure(run) for seed, run in self.runs.get(variant, {}).items()}
        return {seed: float(value) for seed, value in found.items() if value is not None}

    def losses(self, variant: str) -> dict[int, float]:
        """Return the validation loss by seed, nats per token."""
        return self.values(variant, lambda run: run.validation["loss"])

    @property
    def reference(self) -> str:
        """The variant that gaps are measured from."""
        return self.bases[0]

    def given(self, variant: str) -> tuple[str, ...]:
        """Return which of the rates of a variant, as ``Record.rates`` calls them, nobody tuned."""
        if not any(run.variant == variant for run in self.tuning):
            return ("learning_rate", "expert_rate")
        fields = {change.partition("=")[0] for change in changes_of(variant)}
        return tuple(r for r in ("learning_rate", "expert_rate") if f"optimizer.{r}" in fields)

    @property
    def seeds(self) -> list[int]:
        """The seeds of any measured run."""
        return sorted({seed for runs in self.runs.values() for seed in runs})

    @property
    def others(self) -> list[str]:
        """The variants but the reference."""
        return [variant for variant in self.runs if variant != self.reference]


def compare(records: Sequence[Record], bases: Sequence[str]) -> Comparison:
    """Sort records; raises UserError if those to compare cannot be (``check_comparable``).

    ``bases``: as ``Comparison.bases``, at least one.
    """
    check_comparable(records)
    measured = [r for r in records if r.purpose == COMPARISON and not why_unmeasured(r)]
    runs = {
        variant: {r.seed: r for r in sorted(measured, key=lambda r: r.seed) if r.variant == variant}
        for variant in sorted({r.variant for r in measured}, key=variant_order)
    }
    tuning = [r for r in records if r.purpose == TUNING]
    return Comparison(runs, bases, tuning, list(records))


def check_comparable(records: Sequence[Record]) -> None:
    """Raise UserError if compared records differ in their setting, or one run is there twice.

    The message names the field and two values.
    """
    compared = [r for r in records if r.purpose == COMPARISON]
    seen: set[str] = set()
    for record in compared:
        if record.name in seen:
            raise UserError(f"record {record.name} is there twice: one of each run is wanted")
        seen.add(record.name)
        first = compared[0]
        if found := difference(first.setting, record.setting):
            raise UserError(
                f"setting.{found.field} differs, so the runs cannot be compared: "
                f"{found.first!r} in {first.name}, {found.second!r} in {record.name}"
            )


def why_unmeasured(record: Record) -> str:
    """Return why a record has no validation loss to use, or an empty string if it has."""
    if record.failed:
        return record.failed
    if "loss" not in record.validation:
        return "no validation loss was measured"
    loss = record.validation["loss"]
    return "" if math.isfinite(loss) else f"the validation loss is {loss}"


def method_of(variant: str) -> str:
    """Return METHOD of METHOD+FIELD=VALUE+..."""
    return variant.partition("+")[0]


def changes_of(variant: str) -> frozenset[str]:
    """Return what stands behind METHOD: variants with the same are in like settings."""
    return frozenset(variant.split("+")[1:])


def variant_order(variant: str) -> tuple[int, str]:
    """Return a key that sorts plain methods as METHODS does, and other variants behind, by name."""
    names = list(METHODS)
    return (names.index(variant) if variant in names else len(names), variant)
