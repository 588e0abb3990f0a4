"""Options that an artifact was made with, as text for a report: without paths, and without unset options."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePath

from medvit.artifacts import CONFIG
from medvit.config import Tree, read_yaml

MAX_LENGTH = 80
"""Maximum number of characters of a value, since some options are long lists."""


def options_of(folder: Path) -> Tree:
    """Return the options in the `config.yaml` of an artifact; empty if it has none."""
    path = folder / CONFIG
    return read_yaml(path) if path.is_file() else {}


def described(tree: object, besides: Collection[str] = ()) -> str:
    """Return a group of options as text, such as `lr 0.001, schedule cosine`; nested options have dotted names.

    Options that are unset or in `besides` are omitted. Of a path, only its last part is kept.
    """
    return ", ".join(f"{name} {value}" for name, value in _pairs(tree, besides))


def _pairs(tree: object, besides: Collection[str], prefix: str = "") -> Iterator[tuple[str, str]]:
    if not isinstance(tree, Mapping):
        return
    for key, value in tree.items():
        if key in besides or value in (None, "", [], {}, ()):
            continue
        if isinstance(value, Mapping):
            yield from _pairs(value, besides, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _text(value)


def _text(value: object) -> str:
    text = PurePath(value).name if isinstance(value, str) and "/" in value else str(value)
    return text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]}..."
