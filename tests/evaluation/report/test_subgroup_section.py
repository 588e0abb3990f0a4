"""Subgroups are in the page and in metrics.json, with all numbers of the analysis."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from medvit.evaluation import Evaluation
from medvit.evaluation.report.page import ReportSubject, write_report
from medvit.evaluation.report.subgroup_section import forest_figure, subgroup_parts
from medvit.evaluation.subgroups.analysis import with_subgroups
from medvit.evaluation.tasks.regression import evaluate_values
from medvit.records import Row


def measured() -> Evaluation:
    draw = np.random.default_rng(0)
    identity = ("s", "e", "MR", "image", "d", "test", (1, 8, 8), "uint8", "0")
    rows = [Row(f"i{n}", f"p{n}", *identity, attributes={"model": f"<{'AB'[n % 2]}>", "sex": "F"}) for n in range(60)]
    truth = draw.normal(size=60)
    predicted = truth + np.where(np.arange(60) % 2, 2.0, 0.2) * draw.normal(size=60)
    return with_subgroups(
        evaluate_values(rows, truth, predicted, "weight", resamples=100, seed=0),
        ("model", "sex"),
        resamples=100,
        seed=0,
    )


def test_the_table_and_the_file_have_every_group(tmp_path: Path) -> None:
    evaluation = measured()
    write_report(tmp_path, ReportSubject("Title", {}), evaluation, parts=subgroup_parts(evaluation))
    (saved,) = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["subgroups"]["analyses"]
    (analysis,) = evaluation.subgroups
    assert [group["name"] for group in saved["groups"]] == [group.name for group in analysis.groups] == ["<B>", "<A>"]
    assert saved["groups"][0]["gaps"]["mae"]["value"] == analysis.groups[0].gaps["mae"].value
    assert (saved["comparisons"], saved["alike"]) == (1, {"sex": "F"})
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<th scope="row">model: &lt;B&gt;</th><td>30</td><td>30</td>' in page
    assert "Largest gap: model: &lt;B&gt;" in page


def test_parts_of_a_multitask_model_have_sections_with_their_labels(tmp_path: Path) -> None:
    part = measured()
    whole = replace(part, kind="multitask", parts={"weight": part}, subgroups=(), metrics={})
    write_report(tmp_path, ReportSubject("Title", {}), whole, parts=subgroup_parts(whole))
    (saved,) = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["subgroups"]["analyses"]
    assert saved["label"] == "weight"
    assert "weight: Subgroups" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_plot_has_one_line_a_group_from_top_to_bottom() -> None:
    (analysis,) = measured().subgroups
    axes = forest_figure(analysis).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["model: <B> (30)", "model: <A> (30)"]
    assert axes.yaxis_inverted()
    assert "right is worse" in axes.get_xlabel()
