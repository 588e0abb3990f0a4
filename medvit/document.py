"""Documents of headings, text, tables and figures: self-contained HTML, or Markdown with separate figures."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

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

PAGE = """
<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{{ page.title }}</title>
<meta name="viewport" content="width=device-width"><style>{{ style }}</style></head><body>
<h1>{{ page.title }}</h1><p>For research. Not a medical device.</p>
{% if page.opening %}<p class="{{ page.tone }}">{{ page.opening }}</p>{% endif %}
{% if page.facts is not none %}
    <div class="wide"><table>
    {% for name, text in page.facts.items() %}<tr><th>{{ name }}</th><td><code>{{ text }}</code></td></tr>{% endfor %}
    </table></div>
{% endif %}
{% for section in page.sections %}
    <h2>{{ section.title }}</h2>
    {% for block in section.blocks %}
        {% if block is string %}
            <p>{{ block }}</p>
        {% elif block is table %}
            <div class="wide"><table class="numbers">
            <tr>{% for name in block.head %}<th>{{ name }}</th>{% endfor %}</tr>
            {% for line in block.lines %}
                <tr><th>{{ line[0] }}</th>{% for cell in line[1:] %}<td>{{ cell }}</td>{% endfor %}</tr>
            {% endfor %}
            </table></div>
        {% elif block is bullets %}
            <ul>{% for line in block.lines %}<li>{{ line }}</li>{% endfor %}</ul>
        {% elif block is commands %}
            <pre><code>{{ block.text }}</code></pre>
        {% else %}
            <div class="figures">
            {% for picture in block %}
                <figure><img alt="{{ picture.caption }}" width="{{ picture.width }}" src="{{ picture.uri }}">
                <figcaption>{{ picture.caption }}</figcaption></figure>
            {% endfor %}
            </div>
        {% endif %}
    {% endfor %}
{% endfor %}
</body></html>
"""
"""Template of a page; its line breaks and indentation are not part of the page."""

SCREEN_DPI = 96
"""Pixels per inch of a page, which determine the width of pictures."""


@dataclass(frozen=True)
class Table:
    """Table: a header and rows, where the first cell of a row is its heading.

    Cells of type int or float are displayed as numbers.
    """

    head: Sequence[str]
    lines: Sequence[Sequence[object]]


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
    """Figure as a PNG, with its file name (without extension), caption, and width on the page."""

    name: str
    caption: str
    png: bytes
    width: int

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


Block = str | Table | Bullets | Commands | Sequence[Picture]


@dataclass(frozen=True)
class Section:
    """Section: a heading with sentences, tables, lists and rows of figures."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """Document of sections.

    `opening` is its first sentence, which the tone `warning` highlights as the report of a problem. `facts` describe
    the subject of the document.
    """

    title: str
    opening: str
    sections: Sequence[Section]
    tone: Literal["plain", "warning"] = "plain"
    facts: Mapping[str, str] | None = None

    def write_html(self, path: Path) -> None:
        """Write the document as one self-contained HTML file."""
        write_text(path, _template().render(page=self, style=Markup(STYLE)) + "\n")

    def write_markdown(self, path: Path, pictures: str) -> None:
        """Write the document as Markdown, and its figures into the folder `pictures` next to it."""
        parts = [f"# {self.title}", *([self.opening] if self.opening else [])]
        if self.facts:
            parts.append(markdown_table(Table(["", ""], list(self.facts.items()))))
        for section in self.sections:
            parts += [f"## {section.title}", *(_markdown(block, path.parent, pictures) for block in section.blocks)]
        write_text(path, "\n\n".join(parts) + "\n")


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


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, finalize=_escaped)
    environment.tests["table"] = lambda block: isinstance(block, Table)
    environment.tests["bullets"] = lambda block: isinstance(block, Bullets)
    environment.tests["commands"] = lambda block: isinstance(block, Commands)
    return environment.from_string("".join(map(str.strip, PAGE.splitlines())))


def _escaped(value: object) -> Markup:
    """Return a value as markup. Quotes are escaped as `html.escape` does, so that equal pages have identical bytes."""
    return value if isinstance(value, Markup) else Markup(escape(str(value)))


def _markdown(block: Block, folder: Path, pictures: str) -> str:
    if isinstance(block, str):
        return block
    if isinstance(block, Table):
        return markdown_table(block)
    if isinstance(block, Bullets):
        return "\n".join(f"- {line}" for line in block.lines)
    if isinstance(block, Commands):
        return f"```\n{block.text}\n```"
    (folder / pictures).mkdir(exist_ok=True)
    for picture in block:
        (folder / pictures / f"{picture.name}.png").write_bytes(picture.png)
    return "\n".join(f"![{picture.caption}]({pictures}/{picture.name}.png)" for picture in block)
