"""Checklists on the page and in `metrics.json`: equal counts, links to sections that exist, inert answers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvit.document import Section
from medvit.evaluation import Evaluation
from medvit.evaluation.checklists.answers import TeamAnswers
from medvit.evaluation.checklists.appendix import CHECKLISTS
from medvit.evaluation.checklists.items import ItemState
from medvit.evaluation.fact import Fact
from medvit.evaluation.part import ReportPart, ReportPlace
from medvit.evaluation.report.page import ReportSubject, write_report
from medvit.evaluation.tasks.classification import evaluate_classes
from medvit.evaluation.tasks.regression import evaluate_values
from medvit.records import Row

ATTACK = "<script>alert(1)</script> <img src=x onerror=y> [a](http://b.c) | \"'&amp;"


def rows(count: int = 30) -> list[Row]:
    return [Row(f"i{n}", f"p{n}", "s", "e", "CT", "image", "d", "test", (1, 8, 8), "int16", "0") for n in range(count)]


def classified() -> Evaluation:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 2, 30)
    probabilities = generator.dirichlet(np.ones(2), 30)
    return evaluate_classes(rows(), truth, probabilities, ("a", "b"), resamples=100, seed=0, notes=[])


def written(
    folder: Path, evaluation: Evaluation, answers: TeamAnswers, parts: list[ReportPart]
) -> tuple[str, dict[str, Any]]:
    write_report(folder, ReportSubject("Title", {"Model": "m"}), evaluation, parts=parts, answers=answers)
    return (folder / "report.html").read_text(), json.loads((folder / "metrics.json").read_text())["checklists"]


def test_counts_of_page_and_file_agree_and_add_up(tmp_path: Path) -> None:
    parts = [ReportPart(ReportPlace.COHORT, Section("Cohort", []), facts=frozenset({Fact.COUNTS, Fact.OVERLAP}))]
    page, numbers = written(tmp_path, classified(), TeamAnswers.parse({"title": "x"}), parts)
    table = page[page.index('id="checklists"') :]
    for checklist in CHECKLISTS:
        line = re.search(rf"<th scope=\"row\">{re.escape(checklist.name)}</th>(.*?)</tr>", table)
        assert line is not None
        shown = [int(cell) for cell in re.findall(r"<td>(\d+)</td>", line[1])]
        counts = numbers[checklist.name]["counts"]
        assert shown == [*(counts[state] for state in ItemState), len(checklist.items)]
        assert sum(counts.values()) == len(checklist.items) == len(numbers[checklist.name]["items"])


def test_links_refer_to_sections_that_exist(tmp_path: Path) -> None:
    page, numbers = written(tmp_path, classified(), TeamAnswers(), [])
    appendix = page[page.index('id="checklists"') :]
    links = set(re.findall(r'href="#([^"]+)"', appendix))
    assert {"results", "curves", "notes"} <= links
    assert links <= set(re.findall(r'id="([^"]+)"', page))
    sections = {
        title for one in numbers.values() for item in one["items"].values() for title in item.get("sections", [])
    }
    assert sections == {"Results", "Curves", "Notes"}


@pytest.mark.parametrize(
    ("name", "number", "fact"),
    [
        ("CLAIM 2024", "38", "sensitivity and specificity with intervals"),
        ("STARD-AI 2025", "30", "confusion matrix"),
        ("CLAIM 2024", "19", "rule of the splits"),
        ("CLAIM 2024", "9", "preprocessing"),
        ("CLAIM 2024", "24", "initial weights"),
        ("TRIPOD+AI 2024", "12b", "preprocessing"),
        ("TRIPOD+AI 2024", "20c", "training and test cohort side by side"),
        ("STARD-AI 2025", "15b", "training options"),
    ],
)
def test_a_fact_that_an_evaluation_lacks_is_not_stated(tmp_path: Path, name: str, number: str, fact: str) -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=30)
    regression = evaluate_values(rows(), values, values + 1, "age", notes=(), resamples=100, seed=0)
    _, numbers = written(tmp_path, regression, TeamAnswers(), [])
    item = numbers[name]["items"][number]
    assert item["state"] == "not stated"
    assert fact in item["not_stated"]


def test_a_classification_states_rates_and_confusion(tmp_path: Path) -> None:
    _, numbers = written(tmp_path, classified(), TeamAnswers(), [])
    assert numbers["CLAIM 2024"]["items"]["38"] == {
        "state": "answered by the report",
        "sections": ["Results"],
        "team": {},
        "not_stated": [],
    }
    assert numbers["STARD-AI 2025"]["items"]["30"]["state"] == "answered by the report"


def test_answers_are_shown_literally(tmp_path: Path) -> None:
    page, numbers = written(tmp_path, classified(), TeamAnswers.parse({"title": ATTACK, "funding": ATTACK}), [])
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 6  # two keys, in three lists each
    assert numbers["CLAIM 2024"]["items"]["1"]["team"] == {"title": ATTACK}


def test_no_report_claims_compliance(tmp_path: Path) -> None:
    page, _ = written(tmp_path, classified(), TeamAnswers(), [])
    assert not re.search(r"compliant|complies with (CLAIM|TRIPOD|STARD)", page)


def test_the_checklists_are_last_and_folded(tmp_path: Path) -> None:
    page, _ = written(tmp_path, classified(), TeamAnswers(), [])
    titles = re.findall(r"<h2 id=\"[^\"]+\">(.*?)</h2>", page)
    assert titles[-4:] == ["Checklists", "CLAIM 2024", "TRIPOD+AI 2024", "STARD-AI 2025"]
    folded = re.findall(r"<details><summary>.*?</summary>", page)
    assert len(folded) == page.count("</details>") == 4  # with the recommended metrics
