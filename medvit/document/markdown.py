"""Notation of documents as Markdown, in which text from outside medvit is never markup."""

from __future__ import annotations

import re
from pathlib import Path

from medvit.document.blocks import Block, Bullets, Callout, Commands, Gallery, Table


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


def markdown_table(table: Table) -> str:
    """Return a table in Markdown, with right-aligned columns of numbers."""
    columns = range(len(table.head))
    rule = ["---:" if all(isinstance(line[n], int | float) for line in table.lines) else "---" for n in columns]
    cells = (
        [inert(str(cell)).replace("|", "\\|").replace("\n", " ") for cell in line]
        for line in (table.head, rule, *table.lines)
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def markdown_block(block: Block, folder: Path, pictures: str) -> str:
    """Return a block in Markdown, and write its figures into the folder `pictures` in `folder`."""
    if isinstance(block, str):
        return block
    if isinstance(block, Table):
        return markdown_table(block)
    if isinstance(block, Bullets):
        return "\n".join(f"- {line}" for line in block.lines)
    if isinstance(block, Commands):
        return f"```\n{block.text}\n```"
    if isinstance(block, Callout):
        return "\n>\n".join(f"> {line}" for line in block.lines)
    if isinstance(block, Gallery):
        lines = [case.cells for case in block.cases]
        table = markdown_table(Table(block.head, lines))
        return f"{table}\n\n{markdown_block([case.picture for case in block.cases], folder, pictures)}"
    (folder / pictures).mkdir(exist_ok=True)
    for picture in block:
        (folder / pictures / f"{picture.name}.png").write_bytes(picture.png)
    return "\n".join(f"![{picture.caption}]({pictures}/{picture.name}.png)" for picture in block)
