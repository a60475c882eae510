"""Where the numbers of an evaluation are kept."""

import json
from typing import Any, NamedTuple

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.parallel.processes import agreed, is_first, say
from cartesian_moe_jax.paths import AnyPath, as_path, make_folder, write_atomically
from cartesian_moe_jax.runs.json_text import json_text

FILE = ".json"


class Place(NamedTuple):
    """The run's folder, or another file or folder that was asked for."""

    workdir: AnyPath
    to: AnyPath | None = None
    """A file whose name ends in .json, or a folder; None: the run's."""

    @classmethod
    def of(cls, workdir: AnyPath, to: str) -> "Place":
        """Return the place that was asked for; ``to`` may be empty."""
        return cls(workdir, as_path(to) if to else None)

    def require_folder(self) -> None:
        """Raise UserError if there is room for one result alone."""
        if self.to and self.to.suffix == FILE:
            raise UserError(f"--to={self.to} is one file, and there are two results: name a folder")

    def require_writable(self) -> None:
        """Raise UserError, in all processes, if the place that was asked for cannot be made."""
        with agreed():
            if is_first() and self.to:
                make_folder(self._target("").parent)

    def kept(self, name: str) -> dict[str, Any]:
        """Return what was kept before; empty if there is nothing that can be read."""
        try:
            found = json.loads(self._target(name).read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def keep(self, name: str, result: dict[str, Any], *, say_where: bool = True) -> None:
        """Write what was measured, and say where it is.

        A run's folder may be another's, who lets us read alone: then that is a line of warning.
        Raises UserError, in all processes, where the place that was asked for cannot be written.
        """
        target = self._target(name)
        try:
            with agreed():
                if is_first():
                    if self.to:
                        make_folder(target.parent)
                    write_atomically(target, json_text(result, indent=1) + "\n")
        except UserError as error:
            if self.to:
                raise
            say(f"warning: {error}; --to=FILE.json keeps the numbers elsewhere", error=True)
        else:
            if say_where:
                say(f"{'written to':16} {target}")

    def _target(self, name: str) -> AnyPath:
        if self.to and self.to.suffix == FILE:
            return self.to
        return (self.to or self.workdir) / f"{name}{FILE}"
