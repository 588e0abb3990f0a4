"""Documents of headings, text, tables and figures: self-contained HTML, or Markdown with separate figures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from medvit.document.blocks import (
    Block,
    Bullets,
    Callout,
    Case,
    Commands,
    Gallery,
    Markdown,
    Outside,
    Picture,
    PictureTable,
    Reference,
    References,
    Section,
    Table,
)
from medvit.document.html import rendered
from medvit.document.markdown import code, escaped, inert, markdown_block, markdown_table, plain
from medvit.document.pdf import rendered_pdf, require_pdf
from medvit.files.atomic import write_bytes, write_text

__all__ = [
    "Block",
    "Bullets",
    "Callout",
    "Case",
    "Commands",
    "Document",
    "Gallery",
    "Markdown",
    "Outside",
    "Picture",
    "PictureTable",
    "Reference",
    "References",
    "Section",
    "Table",
    "code",
    "inert",
    "markdown_table",
    "plain",
    "require_pdf",
]


@dataclass(frozen=True)
class Document:
    """Document of sections.

    `opening` is its first sentence, which the tone `warning` highlights as the report of a problem. `facts` describe
    the subject of the document. `has_contents` adds a list of the sections with links.
    """

    title: str
    opening: str
    sections: Sequence[Section]
    tone: Literal["plain", "warning"] = "plain"
    facts: Mapping[str, str] | None = None
    has_contents: bool = False

    @cached_property
    def anchors(self) -> list[str]:
        """Return the identifier of each section, by which links refer to it."""
        names = [re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-") or "section" for section in self.sections]
        return [name if name not in names[:n] else f"{name}-{n + 1}" for n, name in enumerate(names)]

    def anchor_of(self, title: str) -> str:
        """Return the identifier of the section with a title."""
        return self.anchors[[section.title for section in self.sections].index(title)]

    @property
    def has_gallery(self) -> bool:
        """Return whether the document shows cases that can be enlarged."""
        return any(isinstance(block, Gallery) for section in self.sections for block in section.blocks)

    @property
    def has_folded(self) -> bool:
        """Return whether the document has folded sections."""
        return any(section.is_folded for section in self.sections)

    def write_html(self, path: Path) -> None:
        """Write the document as one self-contained HTML file."""
        write_text(path, rendered(self))

    def write_pdf(self, path: Path) -> None:
        """Write the document as a PDF.

        Raises:
            ConfigError: If WeasyPrint is not installed.
        """
        write_bytes(path, rendered_pdf(rendered(self)))

    def write_markdown(self, path: Path, pictures: str) -> None:
        """Write the document as Markdown, and its figures into the folder `pictures` next to it."""
        write_text(path, self.markdown(path.parent, pictures))

    def markdown(self, folder: Path, pictures: str) -> str:
        """Return the document as Markdown, and write its figures into the folder `pictures` in `folder`."""
        parts = [f"# {escaped(self.title)}", *([self.opening] if self.opening else [])]
        if self.facts:
            parts.append(markdown_table(Table(["", ""], list(self.facts.items()))))
        for section in self.sections:
            parts += [
                f"## {escaped(section.title)}",
                *(markdown_block(block, folder, pictures) for block in section.blocks),
            ]
        return "\n\n".join(parts) + "\n"
