"""One document in two notations, neither of which lets a cell become markup."""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import ImageFile

from medvit.document import (
    Bullets,
    Commands,
    Document,
    Picture,
    Section,
    Table,
    code,
    markdown_table,
    plain,
    require_pdf,
)
from medvit.errors import ConfigError

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
    assert "![a &lt;plot>](pictures/plot.png)" in text
    assert (tmp_path / "pictures" / "plot.png").read_bytes() == drawn().png


def test_a_bar_in_a_cell_stays_in_its_cell() -> None:
    assert "| a \\| b | 3 |" in markdown_table(TABLE)


def test_a_cell_of_html_is_no_markup(tmp_path: Path) -> None:
    page().write_html(tmp_path / "page.html")
    assert '<th scope="row">&lt;i&gt;</th><td>4</td>' in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_facts_and_lists_are_in_both_notations(tmp_path: Path) -> None:
    made = Document("A", "", [Section("Found", [Bullets(["<b>", "two"])])], facts={"Key": "a & b"})
    made.write_html(tmp_path / "page.html")
    made.write_markdown(tmp_path / "page.md", "pictures")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert '<tr><th scope="row">Key</th><td><code>a &amp; b</code></td></tr>' in text
    assert "<ul><li>&lt;b&gt;</li><li>two</li></ul>" in text
    assert (
        (tmp_path / "page.md").read_text(encoding="utf-8").endswith("| Key | a & b |\n\n## Found\n\n- &lt;b>\n- two\n")
    )


def test_commands_keep_their_lines_in_both_notations(tmp_path: Path) -> None:
    made = Document("A", "", [Section("Repeat", [Commands(["medvit a <b>", "medvit c"])])])
    made.write_html(tmp_path / "page.html")
    made.write_markdown(tmp_path / "page.md", "pictures")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<pre><code>medvit a &lt;b&gt;\nmedvit c</code></pre>" in page
    assert (tmp_path / "page.md").read_text(encoding="utf-8").endswith("```\nmedvit a <b>\nmedvit c\n```\n")


def test_the_template_adds_no_blanks_of_its_own(tmp_path: Path) -> None:
    Document("A", "B", [Section("C", ["D"])]).write_html(tmp_path / "page.html")
    body = (tmp_path / "page.html").read_text(encoding="utf-8").partition("</head>")[2]
    assert body == (
        "<body><main><h1>A</h1><p>For research. Not a medical device.</p>"
        '<p class="plain">B</p><h2 id="c">C</h2><p>D</p></main></body></html>\n'
    )


@pytest.mark.parametrize(
    "text",
    ["<img src=x onerror=alert(1)>", "![x](http://a.b/c)", "[x](javascript:y)", "http://a.b", "*a* _b_ `c` ~d~", "# e"],
)
def test_a_text_that_is_not_ours_is_no_markup(text: str) -> None:
    markdown = pytest.importorskip("markdown_it")
    shown = markdown.MarkdownIt("gfm-like", {"linkify": False}).render(f"- Classes: {plain(text)}, b")
    assert not re.search(r"<(?!/?(ul|li)>)", shown)
    assert "://" not in plain(text)  # which some renderers link
    assert html.unescape(shown) == f"<ul>\n<li>Classes: {text}, b</li>\n</ul>\n"


def test_usual_names_stay_as_they_are() -> None:
    for name in ("kidney_tumor", "left lobe", "grade 2 (mild)", "HER2+", "T1/T2", "5 mm"):
        assert plain(name) == name


def test_a_code_span_cannot_be_left_by_a_backtick() -> None:
    assert code("label") == "`label`"
    assert code("a`b``c") == "``` a`b``c ```"


def test_cells_have_no_tags_links_or_pictures() -> None:
    text = markdown_table(Table(["a"], [["<script>x</script> ![a](http://b)"]]))
    assert "<script" not in text
    assert "](" not in text
    assert markdown_table(Table(["a"], [["5 < 6, [1, 2]"]])).endswith("| 5 < 6, [1, 2] |")


def test_a_missing_pdf_writer_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    with pytest.raises(ConfigError, match=r"pip install medvit\[pdf\]"):
        require_pdf()


def test_a_pdf_does_not_make_the_process_accept_truncated_images(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("weasyprint", reason="WeasyPrint is not installed (extra pdf)")
    for name in [name for name in sys.modules if name.partition(".")[0] == "weasyprint"]:
        monkeypatch.delitem(sys.modules, name)
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    require_pdf()
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
