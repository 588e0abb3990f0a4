"""Notation of documents as self-contained HTML, for screens of any width, for keyboards and for paper."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from html import escape

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from medvit.document.blocks import (
    Bullets,
    Callout,
    Commands,
    Gallery,
    Markdown,
    PictureTable,
    Reference,
    References,
    Table,
)

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2a44; max-width: 1080px; margin: 2rem auto; padding: 0 1rem }
p, li, h1, h2, h3, figcaption { overflow-wrap: anywhere } h1, h2, h3 { line-height: 1.25 } h1 { margin-bottom: .2rem }
h2 { margin-top: 2.4rem; border-bottom: 1px solid #d8dce6; padding-bottom: .3rem }
a { color: #1b4f9c } :focus-visible { outline: 3px solid #1b4f9c; outline-offset: 2px }
table { border-collapse: collapse; margin-bottom: 1.4rem }
td, th { text-align: left; vertical-align: top; padding: .3rem 1.6rem .3rem 0; border-bottom: 1px solid #eceff5 }
.numbers td { font-variant-numeric: tabular-nums; white-space: nowrap }
.numbers thead th { color: #55607a; border-bottom-color: #b9c0d0 } .numbers tbody th { font-weight: 500 }
.warning, .passed, .failed, .unjudged { border-left: 4px solid; padding: .6rem 1rem; margin: 1rem 0 }
.warning { background: #fff4e5; border-color: #d95f02 } .passed { background: #e8f5ee; border-color: #12704f }
.failed { background: #fdecec; border-color: #b3261e } .unjudged { background: #f1f3f8; border-color: #55607a }
.lead { font-size: 1.1rem } .contents ul { columns: 16rem; padding-left: 1.2rem }
.figures { display: flex; flex-wrap: wrap; gap: 1.2rem } figure { margin: 0; max-width: 100% }
.pair { display: contents }
figcaption { font-size: .9rem; color: #55607a }
img { max-width: 100%; height: auto } code { font-size: .9rem; overflow-wrap: anywhere } .wide { overflow-x: auto }
pre { background: #f1f3f8; padding: .6rem 1rem; white-space: pre-wrap; overflow-wrap: anywhere }
.cases { min-width: 640px } .cases td, .cases th { padding-right: 1rem }
.cases button.open { display: block; padding: 0; border: 0; background: none; cursor: zoom-in }
.cases img { display: block; width: 132px; max-width: 26vw } .cases p { margin: 0 }
.cases td, .cases tbody th { overflow-wrap: break-word; font-weight: normal }
.cases td:last-child { white-space: pre }
.montage figure { display: inline-block; width: 150px; margin: 0 .5rem .5rem 0; vertical-align: top }
.montage img { display: block; width: 150px } .montage figcaption { font-size: .75rem }
.montage tbody th { min-width: 6rem; max-width: 12rem; overflow-wrap: anywhere; font-weight: 500 }
.key { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; padding: 0; list-style: none }
.key span { display: inline-block; width: 1em; height: 1em; margin-right: .4em; vertical-align: -.12em }
dialog { width: min(1200px, 94vw); max-height: 94vh; border: 1px solid #55607a; padding: 1rem; box-sizing: border-box }
dialog::backdrop { background: rgb(20 25 40 / 70%) } dialog h3 { margin: 0 0 .4rem }
dialog .stage { overflow: auto; max-height: 68vh; background: #111 }
dialog .stage img { display: block; max-width: none }
dialog button { font: inherit; padding: .35rem .8rem; margin: .6rem .4rem 0 0 }
@page { size: A4; margin: 15mm }
@media print {
  body { font-size: 10pt; max-width: none; margin: 0; padding: 0 }
  h1, h2, h3 { break-after: avoid } h2 { margin-top: 1.4rem } p, li { orphans: 3; widows: 3 }
  tr, figure, pre, .warning, .passed, .failed, .unjudged { break-inside: avoid } thead { display: table-header-group }
  .wide { overflow: visible } .numbers td, .numbers th { white-space: normal; overflow-wrap: anywhere }
  td, th { padding-right: .6rem } table { font-size: 8.5pt; max-width: 100% }
  dialog { display: none } .cases { min-width: 0 } .cases img { width: 26mm; max-width: none }
  .cases td:last-child { white-space: pre-line }
  .figures { display: block } .pair { display: flex; gap: 2%; break-inside: avoid; margin-bottom: 1rem }
  figure { width: 48% } .montage figure, .montage img { width: 24mm }
  .montage tbody th { min-width: 0; max-width: 24mm }
}
"""

PAGE = """
{% macro legend(colors) %}
    {% if colors %}
        <ul class="key">
        {% for name, color in colors.items() %}
            <li><span style="background:{{ color }}"></span>{{ name }}</li>
        {% endfor %}
        </ul>
    {% endif %}
{% endmacro %}
<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{{ page.title }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{{ style }}</style>
{% if page.has_folded %}{{ folding }}{% endif %}
</head><body><main>
<h1>{{ page.title }}</h1><p>For research. Not a medical device.</p>
{% if page.opening %}<p class="{{ page.tone }}">{{ page.opening }}</p>{% endif %}
{% if page.facts is not none %}
    <div class="wide" tabindex="0" role="group" aria-label="Facts"><table><tbody>
    {% for name, text in page.facts.items() %}
        <tr><th scope="row">{{ name }}</th><td><code>{{ text }}</code></td></tr>
    {% endfor %}
    </tbody></table></div>
{% endif %}
{% if page.has_contents %}
    <nav class="contents" aria-label="Sections"><ul>
    {% for section in page.sections %}
        <li><a href="#{{ page.anchors[loop.index0] }}">{{ section.title }}</a></li>
    {% endfor %}
    </ul></nav>
{% endif %}
{% for section in page.sections %}
    {% if section.is_folded %}<details><summary>{% endif %}
    <h2 id="{{ page.anchors[loop.index0] }}">{{ section.title }}</h2>
    {% if section.is_folded %}</summary>{% endif %}
    {% for block in section.blocks %}
        {% if block is string %}
            <p>{{ block | spans }}</p>
        {% elif block is markdown %}
            {{ block.text | from_markdown }}
        {% elif block is callout %}
            <div class="{{ block.tone }}">{% for line in block.lines %}<p>{{ line | spans }}</p>{% endfor %}</div>
        {% elif block is table %}
            <div class="wide" tabindex="0" role="group" aria-label="{{ section.title }}, table {{ loop.index }}">
            <table class="{{ "text" if block.is_text else "numbers" }}">
            {% if block.head | select | list %}
                <thead><tr>
                {% for name in block.head %}
                    {% if name %}<th scope="col">{{ name }}</th>{% else %}<td></td>{% endif %}
                {% endfor %}
                </tr></thead>
            {% endif %}
            <tbody>
            {% for line in block.lines %}
                <tr><th scope="row">{{ line[0] }}</th>
                {% for cell in line[1:] %}
                    <td>
                    {% if cell is reference %}<a href="#{{ page.anchor_of(cell.title) }}">{{ cell.title }}</a>
                    {% elif cell is references %}
                    {% for title in cell.titles %}
                    <a href="#{{ page.anchor_of(title) }}">{{ title }}</a>{{ "" if loop.last else ", " }}
                    {% endfor %}
                    {{ "; " if cell.titles and cell.text else "" }}{{ cell.text }}
                    {% else %}{{ cell }}{% endif %}
                    </td>
                {% endfor %}
                </tr>
            {% endfor %}
            </tbody></table></div>
        {% elif block is bullets %}
            <ul>{% for line in block.lines %}<li>{{ line | spans }}</li>{% endfor %}</ul>
        {% elif block is commands %}
            <pre><code>{{ block.text }}</code></pre>
        {% elif block is gallery %}
            {{ legend(block.colors) }}
            <div class="wide" tabindex="0" role="group" aria-label="{{ section.title }}, table {{ loop.index }}">
            <table class="cases"><thead><tr><th scope="col">picture</th>
            {% for name in block.head %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead><tbody>
            {% for case in block.cases %}
                <tr><td><button class="open" type="button" data-picture="{{ case.picture.uri }}"
                {{ " " }}data-title="{{ case.picture.caption }}">
                <img alt="Enlarge: {{ case.picture.caption }}" src="{{ case.thumbnail.uri }}"></button></td>
                <th scope="row">{{ case.cells[0] }}</th>
                {% for cell in case.cells[1:] %}<td>{{ cell }}</td>{% endfor %}</tr>
            {% endfor %}
            </tbody></table></div>
        {% elif block is picture_table %}
            {{ legend(block.colors) }}
            <div class="wide" tabindex="0" role="group" aria-label="{{ section.title }}, table {{ loop.index }}">
            <table class="montage"><thead><tr>
            {% for name in block.head %}
                {% if name %}<th scope="col">{{ name }}</th>{% else %}<td></td>{% endif %}
            {% endfor %}
            </tr></thead><tbody>
            {% for title, cells in block.lines %}
                <tr><th scope="row">{{ title }}</th>
                {% for cell in cells %}
                    <td>
                    {% if cell is string %}{{ cell }}
                    {% else %}
                        {% for picture in cell %}
                            <figure><img alt="{{ picture.caption }}" width="{{ picture.width }}"
                            {{ " " }}src="{{ picture.uri }}">
                            <figcaption>{{ picture.title or picture.caption }}</figcaption></figure>
                        {% endfor %}
                    {% endif %}
                    </td>
                {% endfor %}
                </tr>
            {% endfor %}
            </tbody></table></div>
        {% else %}
            <div class="figures">
            {% for pair in block | batch(2) %}
                <div class="pair">
                {% for picture in pair %}
                    <figure><img alt="{{ picture.caption }}" width="{{ picture.width }}" src="{{ picture.uri }}">
                    <figcaption>{{ picture.caption }}</figcaption></figure>
                {% endfor %}
                </div>
            {% endfor %}
            </div>
        {% endif %}
    {% endfor %}
    {% if section.is_folded %}</details>{% endif %}
{% endfor %}
</main>
{% if page.has_gallery %}{{ viewer }}{% endif %}
{% if page.has_folded %}{{ unfolding }}{% endif %}
</body></html>
"""
"""Template of a page; its line breaks and indentation are not part of the page."""

VIEWER = """
<dialog aria-labelledby="case"><h3 id="case"></h3>
<div class="stage" tabindex="0" role="group" aria-label="Picture of the case"><img alt=""></div>
<button type="button" data-do="previous">Previous (left arrow)</button>
<button type="button" data-do="next">Next (right arrow)</button>
<button type="button" data-do="larger">Larger (+)</button>
<button type="button" data-do="smaller">Smaller (-)</button>
<button type="button" data-do="close">Close (Esc)</button></dialog>
<script>
(() => {
  const dialog = document.querySelector("dialog"), image = dialog.querySelector("img");
  const opens = [...document.querySelectorAll("button.open")];
  let shown = 0, zoom = 1;
  const scale = () => { image.style.width = `${100 * zoom}%`; };
  const show = (index) => {
    shown = (index + opens.length) % opens.length;
    zoom = 1;
    const { picture, title } = opens[shown].dataset;
    image.src = picture;
    image.alt = title;
    dialog.querySelector("h3").textContent = `${shown + 1} of ${opens.length}: ${title}`;
    scale();
  };
  const actions = {
    previous: () => show(shown - 1),
    next: () => show(shown + 1),
    larger: () => { zoom = Math.min(8, zoom * 1.5); scale(); },
    smaller: () => { zoom = Math.max(1, zoom / 1.5); scale(); },
    close: () => dialog.close(),
  };
  const keys = { ArrowLeft: "previous", ArrowRight: "next", "+": "larger", "=": "larger", "-": "smaller" };
  opens.forEach((button, index) => button.addEventListener("click", () => { show(index); dialog.showModal(); }));
  dialog.addEventListener("click", (event) => {
    if (event.target === image) actions.larger();
    else if (event.target === dialog) dialog.close();
    else if (event.target.dataset.do) actions[event.target.dataset.do]();
  });
  dialog.addEventListener("keydown", (event) => {
    const isScrolled = zoom > 1 && event.key.startsWith("Arrow");
    if (keys[event.key] && !isScrolled) { event.preventDefault(); actions[keys[event.key]](); }
  });
  dialog.addEventListener("close", () => opens[shown].focus());
})();
</script>
"""
"""Viewer of the cases of a `Gallery`: a dialog with zoom, which mouse and keyboard operate."""

FOLDING = """
<style>
summary { cursor: pointer } summary h2 { display: inline-block; margin: .8rem 0 .4rem }
details .text { min-width: 640px } details .text td { overflow-wrap: break-word; white-space: pre-line }
@media print { details .text { min-width: 0 } }
</style>
"""
"""Style of folded sections, for pages that have any."""

UNFOLDING = """
<script>
(() => {
  const open = (found) => { for (const one of found) one.open = true; };
  const target = () => location.hash && document.querySelector(location.hash)?.closest("details");
  addEventListener("beforeprint", () => open(document.querySelectorAll("details")));
  addEventListener("hashchange", () => open([target()].filter(Boolean)));
  open([target()].filter(Boolean));
})();
</script>
"""
"""Script that opens folded sections before printing, and a section that a link refers to."""

BLOCKS: Mapping[str, type] = {
    "table": Table,
    "bullets": Bullets,
    "callout": Callout,
    "commands": Commands,
    "gallery": Gallery,
    "markdown": Markdown,
    "picture_table": PictureTable,
    "reference": Reference,
    "references": References,
}
"""Names by which the template distinguishes blocks and cells."""


def _is_a(kind: type) -> Callable[[object], bool]:
    return lambda block: isinstance(block, kind)


def rendered(page: object) -> str:
    """Return a document as one self-contained HTML file."""
    constant = {"viewer": VIEWER, "folding": FOLDING, "unfolding": UNFOLDING}
    parts = {name: Markup(text.strip()) for name, text in constant.items()}
    return _template().render(page=page, style=Markup(STYLE), **parts) + "\n"


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, finalize=_escaped)
    for name, kind in BLOCKS.items():
        environment.tests[name] = _is_a(kind)
    environment.filters |= {"spans": _with_spans, "from_markdown": _from_markdown}
    return environment.from_string("".join(map(str.strip, PAGE.splitlines())))


def _with_spans(text: str) -> Markup:
    """Return a sentence as markup in which text between backticks is code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", escape(text)))


def _from_markdown(text: str) -> Markup:
    """Return Markdown as markup without tags, links and pictures of its own, its headings one level lower."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "link", "autolink"])
    tokens = parser.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 1)}"
        elif token.type == "th_open":
            token.attrSet("scope", "col")
    return Markup(parser.renderer.render(tokens, parser.options, {}))


def _escaped(value: object) -> Markup:
    """Return a value as markup. Quotes are escaped as `html.escape` does, so that equal pages have identical bytes."""
    return value if isinstance(value, Markup) else Markup(escape(str(value)))
