"""Orbax checkpoints: asynchronous, complete or absent, checked before they are read."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.paths import AnyPath, absolute, reported
from cartesian_moe_jax.runs.checksum import checksum

ARRAYS = ("parameters", "optimizer")
"""Items made of arrays; ``progress`` beside them is a small JSON object."""
CHECKSUMS = "checksums"
"""In it, of each of these items, to tell a damaged file when it is read."""


class Checkpoints:
    """The checkpoints of one run. Use as a context: leaving it waits for the last save.

    The newest ``keep`` are kept, and those of the steps ``always``.
    """

    def __init__(
        self,
        folder: AnyPath,
        keep: int = 1,
        *,
        always: Sequence[int] = (),
        read_only: bool = False,
    ):
        self.folder = absolute(folder)
        kept = ocp.checkpoint_managers.AnyPreservationPolicy(
            [
                ocp.checkpoint_managers.LatestN(None if read_only else keep),
                ocp.checkpoint_managers.CustomSteps(always),
            ]
        )
        handlers = {name: ocp.StandardCheckpointHandler() for name in ARRAYS}
        # Not Orbax's own read_only: it warns at every start.
        options = ocp.CheckpointManagerOptions(
            preservation_policy=kept,
            create=not read_only,
            cleanup_tmp_directories=not read_only,
        )
        with reported("opened", self.folder):
            self._manager = ocp.CheckpointManager(
                self.folder,
                options=options,
                item_handlers={**handlers, "progress": ocp.JsonCheckpointHandler()},
            )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:
            self.wait()
        with contextlib.suppress(Exception):  # it was reported by wait(), or is about to be
            self._manager.close()

    def steps(self) -> list[int]:
        """Return the steps of all complete checkpoints, in rising order."""
        return sorted(self._manager.all_steps())

    def newest(self) -> int | None:
        """Return the step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def choose(self, step: int | None) -> int:
        """Return ``step``, or the newest for None; raises UserError if it is not there."""
        steps = self.steps()
        if not steps:
            raise UserError(f"{self.folder} holds no complete checkpoint")
        if step is not None and step not in steps:
            raise UserError(
                f"step={step} has no checkpoint in {self.folder}: there are "
                f"{', '.join(map(str, steps))}"
            )
        return steps[-1] if step is None else step

    def save(self, step: int, items: Mapping[str, Any], progress: Mapping[str, Any]) -> None:
        """Begin to write a checkpoint; errors of an earlier one surface here, as UserError."""
        arrays = {name: ocp.args.StandardSave(flat_names(tree)) for name, tree in items.items()}
        sums = {name: checksum(tree) for name, tree in items.items()}
        progress = {**progress, CHECKSUMS: sums}
        args = ocp.args.Composite(**arrays, progress=ocp.args.JsonSave(progress))
        with self._reported():
            self._manager.save(step, args=args)

    def wait(self) -> None:
        """Wait until everything is on disk; raises UserError if it could not be written."""
        with self._reported():
            self._manager.wait_until_finished()

    def restore(
        self, step: int, abstract: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the named items, laid out as ``abstract`` says, and the progress.

        Raises UserError that names each array that is missing, extra or of another shape, and
        where what is read is not what was saved.
        """
        arrays = {n: ocp.args.StandardRestore(flat_names(t)) for n, t in abstract.items()}
        args = ocp.args.Composite(**arrays, progress=ocp.args.JsonRestore())
        try:
            self.check_fit(step, abstract)
            restored = self._manager.restore(step, args=args)
        except UserError:
            raise
        except Exception as error:
            raise self._unreadable(step, _first_line(error)) from error
        progress = dict(restored["progress"])
        # Checkpoints of earlier versions have none.
        for name, written in progress.pop(CHECKSUMS, {}).items():
            if name in abstract and checksum(restored[name]) != written:
                raise self._unreadable(step, f"its {name} are not what was written")
        items = {name: unflatten_names(restored[name], tree) for name, tree in abstract.items()}
        return items, progress

    def _unreadable(self, step: int, reason: str) -> UserError:
        folder = self.folder / str(step)
        older = max((known for known in self._manager.all_steps() if known < step), default=None)
        hint = f"; step {older} is there too: --step={older} reads it, and without the folder "
        hint = "" if older is None else f"{hint}{folder} the run continues from it"
        return UserError(f"checkpoint {folder} cannot be read: {reason}{hint}")

    def check_fit(self, step: int, abstract: Mapping[str, Any]) -> None:
        """Raise UserError that names the arrays of items which are missing, extra or misshapen."""
        metadata = self._manager.item_metadata(step)
        checkpoint = f"checkpoint {self.folder / str(step)}"
        for item, tree in abstract.items():
            if metadata.get(item) is None:
                raise self._unreadable(step, f"it holds no {item}")
            require_fit(checkpoint, dict(metadata[item].items()), flat_names(tree))

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._manager.reload()  # what is on disk; the manager has dropped what it was to delete
            newest = self.newest()
            kept = "none is complete" if newest is None else f"step {newest} is the newest complete"
            raise UserError(
                f"a checkpoint could not be written to {self.folder} ({kept}): {_cause(error)}"
            ) from error


def flat_names(tree: Any) -> dict[str, Any]:
    """Return a pytree's leaves by the path that leads to each."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def unflatten_names(named: Mapping[str, Any], like: Any) -> Any:
    """Undo ``flat_names`` for a tree of the structure of ``like``."""
    return jax.tree.unflatten(jax.tree.structure(like), [named[name] for name in flat_names(like)])


def require_fit(where: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise UserError that names the arrays, by shape and dtype, that are not as they must be."""
    lines = _mismatches(
        {name: _kind(value) for name, value in stored.items()},
        {name: _kind(value) for name, value in wanted.items()},
    )
    if lines:
        more = f"; and {len(lines) - 6} more" * (len(lines) > 6)
        raise UserError(f"{where} does not fit the config: {'; '.join(lines[:6])}{more}")


def _kind(value: Any) -> str:
    return f"{value.dtype}{list(value.shape)}"


def _mismatches(stored: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    both = [name for name in wanted if name in stored]
    lines = [f"{n} is {stored[n]}, wanted {wanted[n]}" for n in both if stored[n] != wanted[n]]
    lines += [f"{n} is missing" for n in wanted if n not in stored]
    return lines + [f"{n} is extra" for n in stored if n not in wanted]


def _first_line(error: BaseException) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line.partition(" [tensorstore_spec=")[0]  # a kilobyte of settings


def _cause(error: BaseException) -> str:
    """Return the words of the operating system where it refused, else the first line."""
    chain: list[BaseException] = [error]
    while (deeper := chain[-1].__cause__ or chain[-1].__context__) and deeper not in chain:
        chain.append(deeper)
    system = [e for e in chain if isinstance(e, OSError) and e.strerror]
    return system[-1].strerror if system else _first_line(error)
