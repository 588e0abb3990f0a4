"""One document in two notations, neither of which lets a cell become markup."""

from __future__ import annotations

import re
from pathlib import Path

from matplotlib.figure import Figure

from medvit.document import Document, Picture, Section, Table, html_table, markdown_table

TABLE = Table(["name", "count"], [["a | b", 3], ["<i>", 4]])


def drawn() -> Picture:
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([1, 2])
    return Picture.of("plot", "a <plot>", figure)


def page() -> Document:
    return Document("A & B", "It differs.", [Section("Found", ["A sentence.", TABLE, [drawn()]])], "warning")


def test_html_stands_alone_and_escapes(tmp_path: Path) -> None:
    page().write_html(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<title>A &amp; B</title>" in text
    assert '<p class="warning">It differs.</p>' in text
    assert "a &lt;plot&gt;" in text
    assert all(source.startswith("data:image/png;base64") for source in re.findall(r"src=\"([^\"]{22})", text))
    assert "href" not in text


def test_markdown_has_its_pictures_beside_it(tmp_path: Path) -> None:
    page().write_markdown(tmp_path / "page.md", "pictures")
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert text.startswith("# A & B\n\nIt differs.\n\n## Found\n\nA sentence.\n\n| name | count |\n| --- | ---: |")
    assert "![a <plot>](pictures/plot.png)" in text
    assert (tmp_path / "pictures" / "plot.png").read_bytes() == drawn().png


def test_a_bar_in_a_cell_stays_in_its_cell() -> None:
    assert "| a \\| b | 3 |" in markdown_table(TABLE)
    assert "<th>&lt;i&gt;</th><td>4</td>" in html_table(TABLE)
