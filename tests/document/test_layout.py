"""Pages in a browser: accessible, without overflow on screens of 1280 and 390 pixels, and complete on paper."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from medvit.document import (
    Bullets,
    Callout,
    Case,
    Commands,
    Document,
    Gallery,
    Markdown,
    Picture,
    PictureTable,
    Reference,
    References,
    Section,
    Table,
)

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
AXE = files(pytest.importorskip("axe_playwright_python", reason="axe-core is not installed (extra dev)"))
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
WIDTHS = (1280, 390)
PAPER_WIDTH = 680
"""Width in CSS pixels of an A4 page within margins of 15 mm."""


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (90, 90, 120)).save(buffer, "PNG")
    return buffer.getvalue()


def picture(name: str, width: int) -> Picture:
    return Picture(name, f"Picture {name}", png(width, width), width)


def whole() -> Document:
    """A page with every kind of block, wide tables and long words."""
    numbers = Table(
        ["metric", *(f"a rather long title {n}" for n in range(9))], [["x", *["0.123 [0.100, 0.145]"] * 9]] * 3
    )
    words = Table(
        ["item", "answer"], [["1", Reference("Results")], ["2", "a sentence of several words " * 12]], is_text=True
    )
    folded = Table(
        ["item", "in this report", "answer"],
        [["1", References(["Results", "Curves"], "not stated: x"), "hidden words"], ["2", References([]), "b"]],
        is_text=True,
    )
    cases = [
        Case(picture(f"s{n}", 200), picture(f"l{n}", 1600), ["false negative", "1", f"i-{'0' * 16}"]) for n in range(3)
    ]
    montage = [(long_word, [[picture(f"m{n}", 150) for n in range(3)], "none"]) for long_word in ("a", "b" * 90)]
    long = "/".join(["a_name_without_any_blank"] * 12)
    return Document(
        "A page with all blocks",
        "A warning.",
        [
            Section(
                "Answer", [Callout(["Passed."], "passed"), Callout(["Failed."], "failed"), Callout(["?"], "unjudged")]
            ),
            Section("Results", ["A sentence. " * 30, numbers]),
            Section("Curves", [[picture(name, 700) for name in "abcdef"]]),
            Section("Cases", [Gallery(["case", "truth", "image"], cases, {"lesion": "#e69f00"})]),
            Section("Montage", [PictureTable(["class", "train", "val"], montage, {"lesion": "#e69f00"})]),
            Section(
                "Description",
                [Markdown("Some *words*.\n\n## Good to know\n\n- One.\n\n| a | b |\n|---|---|\n| 1 | 2 |")],
            ),
            *(Section(f"Notes {n}", ["A sentence. " * 60, Bullets([long, "b"])]) for n in range(12)),
            Section("Checklist", [words, Commands([f"medvit evaluate {long}"])]),
            Section("A folded list", [folded], is_folded=True),
        ],
        "warning",
        {"Model": "abc", "Dataset": long},
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "page.html"
    whole().write_html(path)
    return path.as_uri()


def opened(browser: Any, address: str, width: int = 1280) -> Any:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(address)
    return page


def violations(page: Any) -> list[str]:
    page.evaluate((AXE / "axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in ("serious", "critical")]


@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing_serious(browser: Any, address: str, width: int) -> None:
    page = opened(browser, address, width)
    assert violations(page) == []
    page.click("button.open")
    assert violations(page) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_is_never_wider_than_the_screen(browser: Any, address: str, width: int, tmp_path: Path) -> None:
    page = opened(browser, address, width)
    page.screenshot(path=tmp_path / f"page-{width}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_tables_that_scroll_can_be_scrolled_with_the_keyboard(browser: Any, address: str) -> None:
    page = opened(browser, address, 390)
    wide = page.locator(".wide").nth(1)
    assert wide.evaluate("element => element.scrollWidth > element.clientWidth")
    wide.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.activeElement.scrollLeft > 0")


def test_cases_open_move_zoom_and_close_with_the_keyboard(browser: Any, address: str) -> None:
    page = opened(browser, address)
    page.locator("button.open").nth(1).focus()
    page.keyboard.press("Enter")
    assert page.locator("dialog h3").inner_text() == "2 of 3: Picture l1"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("+")
    assert page.locator("dialog img").evaluate("image => image.style.width") == "150%"
    page.keyboard.press("-")
    page.keyboard.press("ArrowRight")
    assert page.locator("dialog h3").inner_text() == "1 of 3: Picture l0"
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    assert page.evaluate("document.activeElement === document.querySelector('button.open')")


def test_links_between_sections_lead_somewhere(browser: Any, address: str) -> None:
    page = opened(browser, address)
    targets = page.eval_on_selector_all("a[href^='#']", "links => links.map(link => link.hash.slice(1))")
    assert targets == ["results", "results", "curves"]
    assert all(page.evaluate("name => document.getElementById(name) !== null", name) for name in targets)


def test_a_folded_section_opens_with_the_keyboard_and_by_a_link(browser: Any, address: str) -> None:
    page = opened(browser, address)
    words = page.get_by_text("hidden words")
    assert not words.is_visible()
    page.locator("summary").focus()
    page.keyboard.press("Enter")
    assert words.is_visible()
    assert violations(page) == []
    assert opened(browser, f"{address}#a-folded-list").get_by_text("hidden words").is_visible()


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="pdftotext is not installed")
def test_a_folded_section_is_complete_on_paper(browser: Any, address: str, tmp_path: Path) -> None:
    printing = tmp_path / "printed.pdf"
    opened(browser, address).pdf(path=printing)
    assert "hidden words" in str(printed(printing))
    pytest.importorskip("weasyprint", reason="WeasyPrint is not installed (extra pdf)")
    whole().write_pdf(tmp_path / "page.pdf")
    assert "hidden words" in str(printed(tmp_path / "page.pdf"))


def test_nothing_is_cut_off_on_paper(browser: Any, address: str) -> None:
    page = opened(browser, address, PAPER_WIDTH)
    page.emulate_media(media="print")
    cut = page.evaluate(
        "width => [...document.querySelectorAll('main *')].filter(element =>"
        " element.getBoundingClientRect().right > width + 1).map(element => element.outerHTML.slice(0, 80))",
        PAPER_WIDTH,
    )
    assert cut == []


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="pdftotext is not installed")
def test_no_heading_stands_alone_at_the_end_of_a_printed_page(browser: Any, address: str, tmp_path: Path) -> None:
    path = tmp_path / "page.pdf"
    opened(browser, address).pdf(path=path, prefer_css_page_size=True)
    pages = printed(path)
    assert len(pages) > 3
    titles = {section.title for section in whole().sections}
    assert not [lines[-1] for lines in pages if " ".join(lines[-1].split()) in titles]


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="pdftotext is not installed")
def test_the_pdf_contains_every_section_and_no_heading_stands_alone(tmp_path: Path) -> None:
    pytest.importorskip("weasyprint", reason="WeasyPrint is not installed (extra pdf)")
    path = tmp_path / "page.pdf"
    whole().write_pdf(path)
    pages = printed(path)
    titles = {section.title for section in whole().sections}
    assert titles <= {" ".join(line.split()) for lines in pages for line in lines}
    assert not [lines[-1] for lines in pages if " ".join(lines[-1].split()) in titles]


def printed(path: Path) -> list[list[str]]:
    """Return the lines of each page of a PDF."""
    text = subprocess.run(["pdftotext", "-layout", path, "-"], check=True, capture_output=True, text=True).stdout
    return [one.strip().splitlines() for one in text.split("\f") if one.strip()]
