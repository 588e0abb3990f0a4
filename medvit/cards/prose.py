"""Card text written by people: front matter for programs, and Markdown that the data card includes."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import yaml
from pydantic import Field

from medvit.config import Config
from medvit.errors import ConfigError
from medvit.records import Row

log = logging.getLogger("medvit")

PROSE_FOLDER = next(
    (
        folder
        for folder in (Path(__file__).parents[2] / "data_cards", Path(sys.prefix) / "data_cards")
        if folder.is_dir()
    ),
    Path("data_cards"),
)
"""Folder of cards on well-known public datasets: in the project, or in the installation (`sys.prefix`)."""

MIN_SHARE = 0.95
"""Minimum number of images in a dataset, as a share of the number that the prose states, for the prose to be used. A
few images may have been refused, but prose on a whole dataset is not used for a subset.
"""


class CardHead(Config):
    """Front matter of a data card."""

    name: str
    """Name of the dataset."""
    RENAMED: ClassVar[Mapping[str, str]] = {"licence": "license"}

    license: str = ""
    """Terms of use."""
    source: str = ""
    """Origin, as a URL or a citation."""
    images: dict[str, int] = Field(default_factory=dict)
    """Number of images by modality."""
    patients: int | None = None
    """Number of patients."""
    assumed_patients: int = 0
    """Number of assumed patients: images, series or studies without an identifier, counted as a patient each."""
    classes: dict[str, int] = Field(default_factory=dict)
    """Number of images by class, for data whose images have one label each."""
    hash: str = ""
    """Hash of the manifest. It depends on the site's key, so a card written by people does not state it."""


@dataclass(frozen=True)
class Prose:
    """Card written by people: its front matter, and Markdown to include."""

    head: CardHead
    text: str


def read_prose(path: Path) -> Prose:
    """Return the card in a Markdown file.

    Raises:
        ConfigError: If the file does not begin with front matter that matches `CardHead`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"the card {path} cannot be read; give facts.card=PATH of a Markdown file") from None
    opening, _, rest = text.removeprefix("---\n").partition("\n---\n")
    try:
        tree = yaml.safe_load(opening) if text.startswith("---\n") and rest else None
    except yaml.YAMLError:
        tree = None
    if not isinstance(tree, dict):
        raise ConfigError(f"the card {path} does not begin with front matter; expected YAML between two lines of ---")
    return Prose(CardHead.parse(tree, source=f"the front matter of {path}"), rest.strip())


def find_prose(path: Path | None, name: str) -> Prose | None:
    """Return the card at a path or, without a path, the card that medvit includes for a dataset of this name."""
    kept = PROSE_FOLDER / f"{name}.md"
    if path is None and not kept.is_file():
        return None
    return read_prose(path or kept)


def fitting(prose: Prose | None, rows: Sequence[Row]) -> Prose | None:
    """Return the card if the number and modalities of the images agree with those stated in it, else None.

    A matching name is not enough, because the terms of use of a public dataset would be wrong for other images.
    """
    if prose is None:
        return None
    counts, num_stated = Counter(row.modality or "unknown" for row in rows), sum(prose.head.images.values())
    del counts["unknown"]  # as pictures whose files do not state it
    name = f"data_cards/{prose.head.name}.md"
    if counts - Counter(prose.head.images) or not MIN_SHARE * num_stated <= len(rows) <= num_stated:
        log.warning(
            "the %d images do not match the stored card %s, which describes %d (%s), so the card is not used although "
            "its name matches; set facts.card=%s to use it",
            len(rows),
            name,
            num_stated,
            ", ".join(f"{kind} {number}" for kind, number in prose.head.images.items()),
            name,
        )
        return None
    log.warning(
        "description and terms of use on the card are those of %s, whose name and number of images match; set "
        "facts.card=... to use others",
        name,
    )
    return prose
