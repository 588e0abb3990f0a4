"""Documents of headings, text, tables and pictures: self-contained HTML, or Markdown with files beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medvit.files.atomic import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2a44; max-width: 1080px; margin: 2rem auto; padding: 0 1rem }
h1 { margin-bottom: .2rem } h2 { margin-top: 2.4rem; border-bottom: 1px solid #d8dce6; padding-bottom: .3rem }
table { border-collapse: collapse; margin-bottom: 1.4rem }
td, th { text-align: left; vertical-align: top; padding: .3rem 1.6rem .3rem 0; border-bottom: 1px solid #eceff5 }
.numbers td { font-variant-numeric: tabular-nums; white-space: nowrap }
.numbers tr:first-child th { color: #55607a; border-bottom-color: #b9c0d0 } .numbers tr + tr th { font-weight: 500 }
.warning { background: #fff4e5; border-left: 4px solid #d95f02; padding: .6rem 1rem }
.figures { display: flex; flex-wrap: wrap; gap: 1.2rem } figure { margin: 0 }
figcaption { font-size: .9rem; color: #55607a }
img { max-width: 100%; height: auto } code { font-size: .9rem; overflow-wrap: anywhere } .wide { overflow-x: auto }
"""

SCREEN_DPI = 96
"""Pixels an inch of a page, by which pictures get their width."""


@dataclass(frozen=True)
class Table:
    """Lines of cells under a head; numbers are told by their type."""

    head: Sequence[str]
    lines: Sequence[Sequence[object]]


@dataclass(frozen=True)
class Picture:
    """A PNG, its name as a file without ending, what it shows, and how wide it is on a page."""

    name: str
    caption: str
    png: bytes
    width: int

    @classmethod
    def of(cls, name: str, caption: str, figure: Figure) -> Picture:
        """A figure, drawn; equal figures give equal bytes."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
        return cls(name, caption, buffer.getvalue(), round(SCREEN_DPI * figure.get_figwidth()))


Block = str | Table | Sequence[Picture]


@dataclass(frozen=True)
class Section:
    """A heading, and below it sentences, tables and rows of pictures."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A document; `tone` sets its first sentence apart where it tells of something wrong."""

    title: str
    opening: str
    sections: Sequence[Section]
    tone: Literal["plain", "warning"] = "plain"

    def write_html(self, path: Path) -> None:
        """Writes one file without any reference to the outside."""
        body = "".join(f"<h2>{escape(s.title)}</h2>{''.join(map(_html, s.blocks))}" for s in self.sections)
        opening = f'<p class="{self.tone}">{escape(self.opening)}</p>'
        write_text(
            path,
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(self.title)}</title>'
            f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
            f"<h1>{escape(self.title)}</h1><p>For research. Not a medical device.</p>{opening}{body}</body></html>\n",
        )

    def write_markdown(self, path: Path, pictures: str) -> None:
        """Writes Markdown, and its pictures into the folder `pictures` beside it."""
        parts = [f"# {self.title}", self.opening]
        for section in self.sections:
            parts += [f"## {section.title}", *(_markdown(block, path.parent, pictures) for block in section.blocks)]
        write_text(path, "\n\n".join(parts) + "\n")


def markdown_table(table: Table) -> str:
    """A table in Markdown; columns of numbers run to the right."""
    columns = range(len(table.head))
    rule = ["---:" if all(isinstance(line[n], int | float) for line in table.lines) else "---" for n in columns]
    cells = (
        [str(cell).replace("|", "\\|").replace("\n", " ") for cell in line] for line in (table.head, rule, *table.lines)
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def html_table(table: Table) -> str:
    """A table in HTML; the first cell of a line is its heading."""
    heads = "".join(f"<th>{escape(name)}</th>" for name in table.head)
    body = "".join(
        f"<tr><th>{escape(str(first))}</th>{''.join(f'<td>{escape(str(cell))}</td>' for cell in cells)}</tr>"
        for first, *cells in table.lines
    )
    return f'<div class="wide"><table class="numbers"><tr>{heads}</tr>{body}</table></div>'


def html_pictures(pictures: Sequence[Picture]) -> str:
    """Pictures in a row, each within the page itself."""
    body = "".join(
        f'<figure><img alt="{escape(p.caption)}" width="{p.width}" '
        f'src="data:image/png;base64,{base64.b64encode(p.png).decode()}">'
        f"<figcaption>{escape(p.caption)}</figcaption></figure>"
        for p in pictures
    )
    return f'<div class="figures">{body}</div>'


def _html(block: Block) -> str:
    if isinstance(block, str):
        return f"<p>{escape(block)}</p>"
    return html_table(block) if isinstance(block, Table) else html_pictures(block)


def _markdown(block: Block, folder: Path, pictures: str) -> str:
    if isinstance(block, str):
        return block
    if isinstance(block, Table):
        return markdown_table(block)
    (folder / pictures).mkdir(exist_ok=True)
    for picture in block:
        (folder / pictures / f"{picture.name}.png").write_bytes(picture.png)
    return "\n".join(f"![{picture.caption}]({pictures}/{picture.name}.png)" for picture in block)
