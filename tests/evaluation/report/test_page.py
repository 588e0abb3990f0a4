"""The report is self-contained and complete."""

import html
import json
import re
from dataclasses import asdict, replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from medvit.document import Case, Gallery, Section
from medvit.errors import DataError
from medvit.evaluation import Breakdown, MetricRow
from medvit.evaluation.part import ReportPart, ReportPlace
from medvit.evaluation.report.case_figure import CaseImage, case_pictures
from medvit.evaluation.report.page import ReportSubject, read_table, write_report
from medvit.evaluation.tasks.classification import evaluate_classes
from medvit.evaluation.tasks.segmentation import evaluate_masks, score_case
from medvit.metrics import metric_of
from medvit.patients import PatientCount
from medvit.records import Row
from medvit.statistics.differences import Difference


def rows(count):
    return [
        Row(f"i{n}", f"p{n}", f"i{n}", f"i{n}", "CT", "volume", "d", "test", (1, 8, 8, 8), "int16", "0")
        for n in range(count)
    ]


def classified():
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, 30)
    probabilities = generator.dirichlet(np.ones(3), 30)
    return evaluate_classes(rows(30), truth, probabilities, ("0", "1", "2"), resamples=100, seed=0, notes=["a <note>"])


def segmented():
    truth = np.zeros((8, 8, 8), np.uint8)
    truth[2:6, 2:6, 2:6] = 1
    scores = [score_case(truth, np.roll(truth, n, 0), ("b", "organ"), (1, 1, 1), tolerance_mm=1) for n in range(3)]
    return evaluate_masks(rows(3), scores, ("b", "organ"), resamples=100, seed=0), truth


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_a_report_refers_to_nothing_outside_itself(kind, tmp_path):
    parts = []
    if kind == "segmentation":
        evaluation, truth = segmented()
        case = CaseImage(truth[None].astype(float), truth, np.roll(truth, 1, 0), (1.0, 1.0, 1.0), "mm")
        one = Case(*case_pictures("case-1", "Dice 0.9", case), ["low Dice", "i1"])
        parts = [ReportPart(ReportPlace.CASES, Section("Cases", [Gallery(["case", "image"], [one])]))]
    else:
        evaluation = classified()
    write_report(tmp_path, ReportSubject("Title", {"Model": "abc"}), evaluation, parts=parts)
    page = (tmp_path / "report.html").read_text()
    sources = re.findall(r"(?:src|href|data-picture)=\"([^\"]{0,20})", page) + re.findall(r"url\((.{0,20})", page)
    assert sources
    assert all(source.startswith(("data:image/png;base64,"[:20], "#")) for source in sources)
    assert "Not a medical device" in page


def test_every_number_is_in_the_file_with_its_interval(tmp_path):
    evaluation = classified()
    differences = {"auroc": Difference(0.1, -0.1, 0.3, "bootstrap", "DeLong", 0.04, 0.08, 9000)}
    write_report(tmp_path, ReportSubject("Title", {}), evaluation, differences=differences)
    saved = json.loads((tmp_path / "metrics.json").read_text())
    assert set(saved["metrics"]) == set(evaluation.metrics)
    assert set(saved["metrics"]["auroc"]) == {"value", "low", "high", "method"}
    assert saved["differences"]["auroc"] == asdict(differences["auroc"])
    page = html.unescape((tmp_path / "report.html").read_text())
    assert "<td>0.100 [-0.100, 0.300]</td><td>0.040</td><td>0.080</td><td>DeLong</td><td>9,000</td>" in page
    assert pq.read_table(tmp_path / "predictions.parquet").num_rows == 30


@pytest.mark.parametrize("evaluation", [classified(), segmented()[0]], ids=lambda evaluation: evaluation.kind)
def test_every_metric_is_defined_in_the_file_and_explained_in_the_page(evaluation, tmp_path):
    write_report(tmp_path, ReportSubject("Title", {}), evaluation)
    definitions = json.loads((tmp_path / "metrics.json").read_text())["definitions"]
    measured = {metric_of(key) for key in evaluation.metrics}
    assert definitions.keys() == {metric.name for metric in measured}
    assert all(definitions[metric.name]["higher_is_better"] is metric.higher_is_better for metric in measured)
    page = html.unescape((tmp_path / "report.html").read_text())
    assert all(metric.meaning in page for metric in measured)


def test_text_from_outside_is_escaped(tmp_path):
    write_report(tmp_path, ReportSubject("<script>", {"Dataset": "<b>"}, warning="<i>"), classified())
    page = (tmp_path / "report.html").read_text()
    assert "<script>" not in page
    assert "a &lt;note&gt;" in page


def test_a_number_that_is_not_defined_is_null_in_the_file_and_said_in_the_page(tmp_path):
    evaluation = evaluate_classes(
        rows(2), np.zeros(2, int), np.tile([0.6, 0.4], (2, 1)), ("no", "yes"), resamples=100, seed=0
    )
    write_report(tmp_path, ReportSubject("Title", {}), evaluation)
    text = (tmp_path / "metrics.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["metrics"]["auroc"] == {"value": None, "low": None, "high": None, "method": ""}
    assert "not defined" in (tmp_path / "report.html").read_text()


def test_few_patients_are_told(tmp_path):
    write_report(tmp_path, ReportSubject("Title", {}), segmented()[0])
    assert "Only 3 patients" in (tmp_path / "report.html").read_text()


def test_assumed_patients_are_told_wherever_patients_are_counted(tmp_path):
    found = segmented()[0]
    doubtful = tuple(replace(row, patient_is_assumed=True) for row in found.rows)
    part = Breakdown("Parts", "", (MetricRow("all", 4, PatientCount.of(doubtful), {}),))
    write_report(tmp_path, ReportSubject("Title", {}), replace(found, rows=doubtful, breakdowns=(part,)))
    page = (tmp_path / "report.html").read_text()
    assert "Only 3 patients (all assumed)" in page
    assert "<td>3 (all assumed)</td>" in page
    saved = json.loads((tmp_path / "metrics.json").read_text())
    assert (saved["counts"]["patients"], saved["counts"]["assumed_patients"]) == (3, 3)
    assert saved["breakdowns"]["Parts"][0]["assumed_patients"] == 3


def test_a_damaged_report_is_told_in_one_sentence(tmp_path):
    (tmp_path / "predictions.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(DataError, match="is damaged and cannot be read; run evaluate again"):
        read_table(tmp_path)


def test_parts_are_placed_in_the_order_of_the_page_and_their_numbers_are_in_the_file(tmp_path):
    last = ReportPart(ReportPlace.CHECKLISTS, Section("Last", ["x"]), notes=("a note of this part",))
    first = ReportPart(ReportPlace.ANSWER, Section("First", ["y"]), "answer", {"passed": 1})
    write_report(tmp_path, ReportSubject("Title", {}), classified(), parts=[last, first])
    page = (tmp_path / "report.html").read_text()
    titles = re.findall("<h2[^>]*>(.*?)</h2>", page)
    assert titles == ["First", "Results", "Curves", "Notes", "Last"]
    assert "<li>a note of this part</li>" in page
    assert json.loads((tmp_path / "metrics.json").read_text())["answer"] == {"passed": 1}


def test_a_part_cannot_replace_other_entries_of_the_file(tmp_path):
    with pytest.raises(AssertionError, match="metrics"):
        write_report(
            tmp_path,
            ReportSubject("Title", {}),
            classified(),
            parts=[ReportPart(ReportPlace.RESULTS, Section("x", []), "metrics", {"a": 1})],
        )
