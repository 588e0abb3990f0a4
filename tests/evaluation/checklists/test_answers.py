"""Answers of the team: strict keys, reasons, and a template that reads back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from medvit.errors import ConfigError
from medvit.evaluation.checklists.answers import KEYS, TeamAnswers, reason_of, template
from medvit.evaluation.checklists.appendix import items_by_key


def read(tmp_path: Path, text: str) -> TeamAnswers:
    path = tmp_path / "report.yaml"
    path.write_text(text)
    return TeamAnswers.read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fundings: x", "did you mean 'funding'"),
        ("study: {setings: x}", "did you mean 'study.setting'"),
        ("study: {design: both}", "study.design"),
        ("ethics: not applicable", "write the reason"),
    ],
)
def test_what_is_not_understood_is_refused_with_the_nearest_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        read(tmp_path, text)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"answers\.yaml"):
        TeamAnswers.read(tmp_path / "answers.yaml")


def test_blanks_are_no_answer_and_numbers_are_text(tmp_path: Path) -> None:
    found = read(tmp_path, 'title: "  "\nintended_use: {prevalence: 0.1}\nstudy:\n')
    assert (found.answer("title"), found.answer("intended_use.prevalence")) == ("", "0.1")
    assert found.study.goal == ""


def test_reasons_follow_the_words_not_applicable() -> None:
    assert reason_of("Not applicable: no trial") == "no trial"
    assert reason_of("no trial") == ""


def test_the_template_is_empty_and_lists_every_key(tmp_path: Path) -> None:
    text = template(TeamAnswers(), items_by_key())
    assert read(tmp_path, text) == TeamAnswers()
    assert text.count("\n#") + text.count("\n  #") >= len(KEYS)


def test_the_template_keeps_answers_and_every_uncommented_key_is_read(tmp_path: Path) -> None:
    given = TeamAnswers.parse({"title": "A: b\nc # d", "data": {"sources": "- x"}, "study": {"design": "prospective"}})
    text = template(given, items_by_key())
    assert read(tmp_path, text) == given
    filled = re.sub(r"(?m)^#( *[a-z_]+: )$", r"\1some text", template(TeamAnswers(), {}))
    filled = filled.replace("design: some text", "design: prospective").replace("series: some text", "series: random")
    found = read(tmp_path, filled.replace("collected: some text", "collected: open"))
    assert all(found.answer(key) for key in KEYS)


def test_the_template_names_the_items_that_a_key_answers() -> None:
    assert "CLAIM 2024: 44; TRIPOD+AI 2024: 18a; STARD-AI 2025: 38." in template(TeamAnswers(), items_by_key())
