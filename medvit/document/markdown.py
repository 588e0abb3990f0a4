"""Notation of documents as Markdown, in which text from outside medvit is never markup."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from medvit.document.blocks import (
    Block,
    Bullets,
    Callout,
    Commands,
    Gallery,
    Markdown,
    Outside,
    Picture,
    PictureTable,
    Table,
)


def plain(text: str) -> str:
    """Escape a text from outside medvit, such as a class name, so that Markdown displays it literally.

    The result contains neither active markup nor links.
    """
    one_line = " ".join(text.split())
    escaped = re.sub(r"([\\`*\[\]~$]|^[#+=-]|&(?=[#\w])|(?<!\w)_|_(?!\w))", r"\\\1", one_line)
    escaped = escaped.replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"(?<=:)//|(?<=www)\.", lambda found: f"\\{found[0]}", escaped)


def code(text: str) -> str:
    """Return a text from outside medvit as a Markdown code span, within enough backticks (CommonMark 6.1)."""
    one_line = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", one_line)), default=0))
    return f"{fence} {one_line} {fence}" if "`" in one_line else f"`{one_line}`"


def inert(text: str) -> str:
    """Return the text of a table cell with HTML tags, images and links made inactive."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text).replace("](", "]\\(")


def escaped(text: object) -> str:
    """Return a title or the text of a table cell; if it is from outside medvit, Markdown displays it literally."""
    return plain(text) if isinstance(text, Outside) else inert(str(text))


def markdown_table(table: Table) -> str:
    """Return a table in Markdown, with right-aligned columns of numbers."""
    columns = range(len(table.head))
    rule = ["---:" if all(isinstance(line[n], int | float) for line in table.lines) else "---" for n in columns]
    cells = (
        [escaped(cell).replace("|", "\\|").replace("\n", " ") for cell in line]
        for line in (table.head, rule, *table.lines)
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def markdown_block(block: Block, folder: Path, pictures: str) -> str:
    """Return a block in Markdown, and write its figures into the folder `pictures` in `folder`."""
    if isinstance(block, str):
        return plain(block) if isinstance(block, Outside) else block
    if isinstance(block, Markdown):
        return block.text
    if isinstance(block, Table):
        return markdown_table(block)
    if isinstance(block, Bullets):
        return "\n".join(f"- {escaped(line)}" for line in block.lines)
    if isinstance(block, Commands):
        return f"```\n{block.text}\n```"
    if isinstance(block, Callout):
        return "\n>\n".join(f"> {line}" for line in block.lines)
    if isinstance(block, Gallery):
        lines = [case.cells for case in block.cases]
        table = markdown_table(Table(block.head, lines))
        return f"{table}\n\n{markdown_block([case.picture for case in block.cases], folder, pictures)}"
    if isinstance(block, PictureTable):
        return _picture_table(block, folder, pictures)
    return "\n".join(_images(block, folder, pictures))


def _picture_table(table: PictureTable, folder: Path, pictures: str) -> str:
    """Return a table of pictures in Markdown, with its legend above; its pictures are written into a folder."""

    def shown(cell: Sequence[Picture] | str) -> str:
        return cell if isinstance(cell, str) else " ".join(_images(cell, folder, pictures))

    lines = [[escaped(title), *map(shown, cells)] for title, cells in table.lines]
    rows = [[escaped(name) for name in table.head], ["---"] * len(table.head), *lines]
    drawn = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in rows)
    legend = ", ".join(f"{plain(name)} {color}" for name, color in table.colors.items())
    return f"Colors: {legend}.\n\n{drawn}" if legend else drawn


def _images(shown: Sequence[Picture], folder: Path, pictures: str) -> list[str]:
    """Write pictures into a folder, and return their references in Markdown."""
    (folder / pictures).mkdir(exist_ok=True)
    for picture in shown:
        (folder / pictures / f"{picture.name}.png").write_bytes(picture.png)
    return [f"![{escaped(picture.caption)}]({pictures}/{picture.name}.png)" for picture in shown]
