"""Summary of an artifact: named lines of text, and the files to open first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Summary:
    """Contents of an artifact, for the terminal and the log.

    `lines` are (name, text) pairs. A line with an empty name continues the previous line. `files` maps names of files
    in the artifact's folder to descriptions; files that do not exist are not listed.
    """

    lines: Sequence[tuple[str, str]] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    def text(self, folder: Path) -> str:
        """Return the summary as indented lines; `folder` is the folder of the artifact."""
        there = [f"{name} ({what})" for name, what in self.files.items() if (folder / name).exists()]
        rows = [*self.lines, ("folder", str(folder)), *labeled("open", there)]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"  {name:<{width}}  {text}" for name, text in rows)


def labeled(name: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    """Return texts as lines of a summary, where only the first line has a name."""
    return [("" if number else name, text) for number, text in enumerate(texts)]


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as `1 study` or `2 studies`."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun[:-1]}ies" if noun.endswith(("dy", "ry")) else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """Return a readable duration, such as `4.2 s`, `3 min 20 s` or `2 h 5 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"
