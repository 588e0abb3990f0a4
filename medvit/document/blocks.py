"""Blocks of a document: tables, lists, figures, commands, and cases to browse."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCREEN_DPI = 96
"""Pixels per inch of a page, which determine the width of pictures."""


class Outside(str):
    """Text from outside medvit, such as a class name, as a title, sentence or table cell: it is never markup."""

    __slots__ = ()


@dataclass(frozen=True)
class Markdown:
    """Markdown written by people.

    In HTML, tags, links and pictures are displayed as text, so that a page loads nothing, and headings are one level
    lower, since they are within a section.
    """

    text: str


@dataclass(frozen=True)
class Table:
    """Table: a header and rows, where the first cell of a row is its heading.

    Cells of type int or float are displayed as numbers, and a `Reference` or `References` as links. The cells of a
    table with `is_text` are sentences, which are wrapped.
    """

    head: Sequence[str]
    lines: Sequence[Sequence[object]]
    is_text: bool = False


@dataclass(frozen=True)
class Reference:
    """Table cell that refers to a section of the same document by its title."""

    title: str

    def __str__(self) -> str:
        return self.title


@dataclass(frozen=True)
class References:
    """Table cell that refers to several sections of the same document by their titles, followed by a text."""

    titles: Sequence[str]
    text: str = ""

    def __str__(self) -> str:
        return "; ".join(filter(None, [", ".join(self.titles), self.text]))


@dataclass(frozen=True)
class Callout:
    """Sentences that stand out, colored by their tone."""

    lines: Sequence[str]
    tone: Literal["warning", "passed", "failed", "unjudged"]


@dataclass(frozen=True)
class Bullets:
    """Bulleted list of sentences."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Commands:
    """Lines to type in a terminal."""

    lines: Sequence[str]

    @property
    def text(self) -> str:
        """Return all lines as one text."""
        return "\n".join(self.lines)


@dataclass(frozen=True)
class Picture:
    """Figure as a PNG, with its file name (without extension), caption, and width on the page.

    `title` is the text below a picture of a `PictureTable`, whose caption is then for screen readers.
    """

    name: str
    caption: str
    png: bytes
    width: int
    title: str = ""

    @classmethod
    def of(cls, name: str, caption: str, figure: Figure) -> Picture:
        """Render a figure as a PNG; equal figures give identical bytes."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
        return cls(name, caption, buffer.getvalue(), round(SCREEN_DPI * figure.get_figwidth()))

    @property
    def uri(self) -> str:
        """Return the PNG as a `data:` URI."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class Case:
    """Case of a gallery: a thumbnail, a larger picture with a caption, and the cells of its row."""

    thumbnail: Picture
    picture: Picture
    cells: Sequence[str]


@dataclass(frozen=True)
class Gallery:
    """Table of cases to browse: one row per case, whose picture can be enlarged.

    `head` names the cells of all cases. `colors` is the legend of the pictures.
    """

    head: Sequence[str]
    cases: Sequence[Case]
    colors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PictureTable:
    """Table of pictures: a title and cells for each row; a cell contains pictures, or a text in place of pictures.

    `head` names the columns, the first one that of the titles. `colors` is the legend of the pictures.
    """

    head: Sequence[str]
    lines: Sequence[tuple[str, Sequence[Sequence[Picture] | str]]]
    colors: Mapping[str, str] = field(default_factory=dict)


Block = str | Markdown | Table | Bullets | Callout | Commands | Gallery | PictureTable | Sequence[Picture]


@dataclass(frozen=True)
class Section:
    """Section: a heading with sentences, tables, lists and rows of figures.

    On a screen, a section with `is_folded` shows only its heading until a reader opens it. On paper, it is complete.
    """

    title: str
    blocks: Sequence[Block]
    is_folded: bool = False
