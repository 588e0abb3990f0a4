"""Output files of a result: writers chosen by name, or all that apply."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from medvit.errors import ConfigError
from medvit.writers import ImageContext, ResultWriter, SlideContext, writer, writers
from medvit.writers.optional import LACKS, write_optional


@dataclass(frozen=True)
class Outputs:
    """Chosen writers; if a user named them, each writer that does not apply to a result is reported."""

    writers: tuple[ResultWriter[Any], ...]
    are_chosen: bool = False

    @classmethod
    def of(cls, names: Sequence[str] | None, task: str) -> Self:
        """Return the writers with these names; if `names` is unset, the writers for models of a task.

        Writers with `is_on_request` are included only if they are named.

        Raises:
            ConfigError: If a writer is for models of another task, or requires another writer.
        """
        if names is None:
            return cls(tuple(one for one in writers() if task in one.tasks and not is_on_request(one)))
        chosen = tuple(writer(name) for name in dict.fromkeys(names))
        for one in chosen:
            if task not in one.tasks:
                fitting = ", ".join(other.name for other in writers() if task in other.tasks)
                raise ConfigError(
                    f"outputs contains {one.name}, a writer for {' and '.join(one.tasks)} models; this is a {task} "
                    f"model, for which these writers exist: {fitting}"
                )
            _require_others(one, task, [other.name for other in chosen])
        return cls(chosen, are_chosen=True)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the writers."""
        return tuple(one.name for one in self.writers)

    @property
    def needs_probabilities(self) -> bool:
        """Whether a writer needs the probabilities of voxels."""
        return any(map(needs_probabilities, self.writers))

    def write(self, context: ImageContext | SlideContext, folder: Path) -> list[str]:
        """Write a result into a folder; return the notes of the writers, and why an output is missing.

        If a writer fails, only its own files are missing.

        Raises:
            OutputError: If nothing can be written, as on a full disk.
            OSError: Likewise.
        """
        notes: list[str] = []
        for one in self.writers:
            if one.applies(context.item, context.prediction):
                notes += _written(one, context, folder)
            elif self.are_chosen:
                found = f"{context.item.kind} (format {context.item.reader})"
                notes.append(f"{LACKS} {one.title}: {one.name} does not apply to this {found}")
        return list(dict.fromkeys(notes))


def _require_others(one: ResultWriter[Any], task: str, names: Sequence[str]) -> None:
    """Check that the writers are chosen to whose files a writer refers: its optional constant `requires`."""
    missing = [name for name in getattr(one, "requires", {}).get(task, ()) if name not in names]
    if missing:
        raise ConfigError(
            f"outputs contains {one.name}, which refers to the result of {missing[0]}; add {missing[0]} to outputs"
        )


def is_on_request(one: ResultWriter[Any]) -> bool:
    """Return whether a writer is used only if `outputs` names it: its optional constant `is_on_request`."""
    return bool(getattr(one, "is_on_request", False))


def needs_probabilities(one: ResultWriter[Any]) -> bool:
    """Return whether a writer needs the probabilities of voxels: its optional constant `needs_probabilities`."""
    return bool(getattr(one, "needs_probabilities", False))


def _written(one: ResultWriter[Any], context: ImageContext | SlideContext, folder: Path) -> list[str]:
    own = folder / f".{one.name}"
    own.mkdir()
    try:
        notes = write_optional(one.title, own, partial(one.write, context, own))
        for made in sorted(own.iterdir()) if own.is_dir() else ():
            if (folder / made.name).exists():
                notes.append(f"{LACKS} {one.title} in {made.name}: another writer has written a file of this name")
            else:
                made.rename(folder / made.name)
        return notes
    finally:
        shutil.rmtree(own, ignore_errors=True)
