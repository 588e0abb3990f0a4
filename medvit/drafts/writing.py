"""Drafts as files of a folder, and the commands that run them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medvit.drafts.draft import Draft
from medvit.errors import OutputError
from medvit.files.atomic import write_text
from medvit.files.private import write_private


def write_drafts(drafts: Sequence[Draft], folder: Path) -> None:
    """Write each configuration into a folder; private ones are readable by their owner only.

    Raises:
        OutputError: If a file exists already; nothing is written then.
    """
    there = [draft.file_name for draft in drafts if (folder / draft.file_name).exists()]
    if there:
        raise OutputError(
            f"{folder} has {', '.join(there)} already, which init does not overwrite; give another output=..., or "
            "remove them"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for draft in drafts:
            if draft.is_private:
                write_private(folder / draft.file_name, [draft.text().encode()])
            else:
                write_text(folder / draft.file_name, draft.text())
    except OSError as error:
        raise OutputError(f"{folder} cannot be written to: {error.strerror}; give another output=...") from None


def next_steps(drafts: Sequence[Draft], folder: Path) -> list[str]:
    """Return lines that name the files, followed by lines with the commands to run next, in order."""
    names = ", ".join(draft.file_name for draft in drafts)
    lines = [
        "",
        f"Wrote {names} to {folder}.",
        "Comments explain every option. Review ingest.yaml, then run from here:",
        "",
    ]
    return lines + [f"  medvit {' '.join(draft.command)}" for draft in drafts]
