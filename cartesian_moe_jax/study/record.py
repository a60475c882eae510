"""What a study keeps of one run: a small JSON file that holds all that the report needs.

Runs made apart, on other machines too, come together by putting their records in one folder.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.paths import AnyPath, entries, is_remote, reported, write_atomically
from cartesian_moe_jax.study.setting import difference

FORMAT = 1
RECORDS = "records"
"""The folder of a study that holds them."""
TUNING, COMPARISON = "tuning", "comparison"


@dataclasses.dataclass(frozen=True)
class Record:
    """One run: what was trained, and what was measured of it."""

    purpose: str
    """``comparison``, or ``tuning`` (a run whose only use is the choice of the rates)."""
    variant: str
    """METHOD, or METHOD+FIELD=VALUE+..."""
    seed: int
    rates: dict[str, float]
    """``learning_rate`` and ``expert_rate``, as in the run's ``config.optimizer``; without
    experts, 1."""
    setting: dict[str, Any]
    """What runs must have in common to be compared, as field -> value."""
    model: dict[str, Any]
    """``d_ff``, ``d_expert``, ``num_experts``, ``sublayers``, ``top_k``, ``total_parameters``,
    ``active_parameters`` (of a varying number of experts, the most), ``forward_flops`` per token,
    ``has_experts``, and ``in_place`` (experts, or feed-forwards in their place)."""
    failed: str = ""
    """Why there are no measurements; empty: there are."""
    tokens: int = 0
    """Trained on."""
    validation: dict[str, float] = dataclasses.field(default_factory=dict)
    """``loss`` (nats per token), ``perplexity``, ``bits_per_byte``, ``tokens`` predicted."""
    curve: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    """``tokens`` and ``loss``: the training loss, before each update, averaged up to there."""
    routing_use: dict[str, Any] | None = None
    """``load`` and ``pairs``, as evaluation/routing_use.py measures them; None: no experts."""
    robustness: list[dict[str, Any]] | None = None
    """Trials, as evaluation/robustness.py measures them; None: not defined for the model."""
    training_seconds: float = 0.0
    tokens_per_second: float | None = None
    machine: dict[str, Any] = dataclasses.field(default_factory=dict)
    """``device_kind``, ``devices``, and versions."""

    @property
    def name(self) -> str:
        """What tells a run from the others of a study; a comparison has one per method and seed."""
        return self.folder if self.purpose == TUNING else self._label

    @property
    def folder(self) -> str:
        """The name of its run directory: other rates are another run."""
        rates = "".join(f".{key}={value:g}" for key, value in sorted(self.rates.items()))
        return self._label + rates

    @property
    def _label(self) -> str:
        return f"{self.purpose}.{self.variant}.seed{self.seed}"


def write_record(folder: AnyPath, record: Record) -> None:
    """Write ``NAME.json`` whole or not at all, in place of an earlier one."""
    if not is_remote(folder):
        with reported("made", folder):
            folder.mkdir(parents=True, exist_ok=True)
    values = {"format": FORMAT, **dataclasses.asdict(record)}
    write_atomically(folder / f"{record.name}.json", json.dumps(values, indent=1) + "\n")


def read_records(folder: AnyPath) -> list[Record]:
    """Read all records of a folder, by name; raises UserError for a file that is none."""
    files = [file for file in entries(folder) if file.suffix == ".json"]
    return [_read(file) for file in sorted(files, key=lambda file: file.name)]


def require_setting(records: Iterable[Record], setting: Mapping[str, Any], where: str) -> None:
    """Raise UserError, naming a field and its two values, if a record has another setting."""
    for record in records:
        if found := difference(record.setting, setting):
            raise UserError(
                f"{where}: {record.name} was run with {found.field}={found.first}, this study has "
                f"{found.field}={found.second}: they cannot be compared (choose another --workdir)"
            )


def _read(file: AnyPath) -> Record:
    with reported("read", file):
        content = file.read_bytes()
    try:
        values = json.loads(content)
        if values.pop("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        return Record(**values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{file} is not a record of a study: {error}") from error
