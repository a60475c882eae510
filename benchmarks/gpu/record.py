"""The measurements of one part in a JSON file that is whole after each of them."""

import json
import math
from pathlib import Path
from typing import Any

from cartesian_moe_jax.paths import write_atomically


class Record:
    """What a part has measured, and what it could not and why."""

    def __init__(self, file: Path, *, resumed: bool = False, **about: Any):
        """Begin anew; ``resumed``: after what the file holds, if that is `about` the same."""
        old = read(file) if resumed else {}
        same = bool(old) and all(old.get(name) == value for name, value in about.items())
        self.file = file
        self.content: dict[str, Any] = {
            **about,
            "measurements": old["measurements"] if same else [],
            "notes": old["notes"] if same else [],
        }
        self._write()

    @property
    def measurements(self) -> list[dict[str, Any]]:
        """What was measured so far."""
        return self.content["measurements"]

    def add(self, **measurement: Any) -> None:
        """Keep a measurement: numbers and words under names that end in the unit."""
        self.measurements.append({})
        self.extend(**measurement)

    def extend(self, index: int = -1, /, **more: Any) -> None:
        """Add to a measurement, the last if no other is meant."""
        self.measurements[index] |= {name: _plain(value) for name, value in more.items()}
        self._write()

    def state(self, **values: Any) -> None:
        """Keep what is so just now, beside the measurements."""
        self.content |= values
        self._write()

    def note(self, line: str) -> None:
        """Keep a line: why a number is not there, or what was done beside measuring."""
        if line not in self.content["notes"]:
            self.content["notes"].append(line)
        self._write()

    def _write(self) -> None:
        write_atomically(self.file, json.dumps(self.content, indent=1))


def read(file: Path) -> dict[str, Any]:
    """What a file holds; nothing if it is not there."""
    return json.loads(file.read_text()) if file.exists() else {}


def _plain(value: Any) -> Any:
    # JSON has no word for infinity.
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
