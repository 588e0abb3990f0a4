"""Card of a model: its sections, what people state, what a report found, and facts about the training."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from medvit.artifacts import Checkpoint
from medvit.cards.model import model_document, write_model_card, write_pages
from medvit.cards.model_prose import ModelProse, read_model_prose
from medvit.cards.model_results import ReportedResults
from medvit.cards.training_record import TrainingData, TrainingRecord
from medvit.consumption import Consumption, Energy
from medvit.dataset.manifest import Facts
from medvit.errors import ConfigError, DataError
from medvit.records import Row
from tests.leakage.test_leakage import row

SECTIONS = (
    "Model details",
    "Intended use",
    "Factors",
    "Metrics",
    "Evaluation data",
    "Training data",
    "Quantitative analyses",
    "Ethical considerations",
    "Caveats and recommendations",
)
"""The nine sections of Model Cards (Mitchell et al. 2019), in their order."""
HOSTILE = "<img src=x>[y](http://z)|`"
REPORT = {
    "kind": "classification",
    "metrics": {
        "auroc": {"value": 0.8125, "low": 0.75, "high": 0.875},
        "brier": {"value": None, "low": None, "high": None},
    },
    "counts": {"images": 40, "patients": 31, "assumed_patients": 2},
    "definitions": {"auroc": {"meaning": "AUROC: area under the curve."}},
    "facts": {"Dataset": HOSTILE, "Split": "test"},
    "notes": ["Only 31 patients."],
    "classes": ["no", "yes"],
    "positive": "yes",
    "verdict": {
        "name": "failed",
        "criteria": [
            {"metric": "auroc", "bound": 0.8, "each": "", "group": "", "is_met": False,
             "value": 0.8125, "low": 0.75, "high": 0.875}
        ],
    },
    "subgroups": {
        "analyses": [
            {
                "title": "By sex",
                "main_metric": "auroc",
                "findings": ["The largest gap is that of F."],
                "groups": [
                    {"attribute": "sex", "name": "F", "patients": 12, "assumed_patients": 0,
                     "metrics": {"auroc": {"value": 0.6875, "low": 0.5, "high": 0.8}}}
                ],
            }
        ]
    },
}  # fmt: skip


def checkpoint(folder: Path, **model: object) -> Checkpoint:
    return Checkpoint(folder, {"kind": "classification", "backbone": {}, "classes": ["no", "yes"], **model}, {}, {})


def rows(folder: Path) -> list[Row]:
    patients = [("p-0", "train", "F"), ("p-1", "train", "M"), ("p-1", "train", "M"), ("p-2", "val", "F")]
    made = []
    for n, (patient, split, sex) in enumerate(patients):
        fields = {"patient_id": patient, "split": split, "attributes": {"sex": sex, "age_years": str(50 + n)}}
        made.append(row(folder, n, np.full((1, 4, 4), n, np.uint8), **fields))
    return made


def report(folder: Path) -> ReportedResults:
    (folder / "metrics.json").write_text(json.dumps(REPORT))
    return ReportedResults.read(folder)


def record(folder: Path) -> TrainingRecord:
    data = TrainingData.of(Facts("toy", license="CC0"), "ab" * 32, rows(folder))
    used = Consumption(200.0, "a processor, 2 cores", [], Energy(7200.0), Energy(None, "there is no GPU"))
    return TrainingRecord([data], "cd" * 32, [data], used, is_resumed=True)


def text_of(folder: Path) -> str:
    return (folder / "model_card.md").read_text(encoding="utf-8")


def test_the_card_has_the_sections_of_model_cards_and_states_what_is_missing(tmp_path: Path) -> None:
    write_model_card(checkpoint(tmp_path), figures={}, training={})
    titles = re.findall("^## (.*)$", text_of(tmp_path), re.M)
    assert [title for title in titles if title in SECTIONS] == list(SECTIONS)
    assert text_of(tmp_path).count(": not stated") == len(ModelProse.model_fields)
    assert "medvit evaluate" in text_of(tmp_path)


def test_data_patients_and_cost_are_those_of_the_record(tmp_path: Path) -> None:
    write_model_card(checkpoint(tmp_path), figures={"loss": 0.5}, training={"seed": "3"}, record=record(tmp_path))
    lines = text_of(tmp_path).splitlines()
    assert f"| toy | 3 | CC0 | not stated | {'ab' * 32} |" in lines
    assert "|  | train | val |" in lines
    assert "| patients | 2 | 1 |" in lines
    assert "| sex, patients: F | 1 (50%) | 1 (100%) |" in lines
    assert "| age: median [quartiles], lowest to highest | 51 [50.5, 51.5], 50 to 52 | 53 [53, 53], 53 to 53 |" in lines
    assert "- Energy of the processor: 0.002 kWh (7200 J), with that of all other processes of the machine" in lines
    assert "- Energy of the GPUs: not measured (there is no GPU)" in lines
    assert any(line.startswith("- Wall time: 3 min 20 s (of the process that finished") for line in lines)
    assert f"Data of the initial weights ({'cd' * 32}):" in lines


def test_the_record_reads_back_and_gives_the_same_card(tmp_path: Path) -> None:
    figures = {"best validation metric": 0.25, "loss": float("nan")}
    write_model_card(checkpoint(tmp_path), figures=figures, training={"seed": "3"}, record=record(tmp_path))
    before = text_of(tmp_path), (tmp_path / "model_card.html").read_bytes()
    write_pages(model_document(checkpoint(tmp_path), TrainingRecord.read(tmp_path)), tmp_path)
    assert (text_of(tmp_path), (tmp_path / "model_card.html").read_bytes()) == before
    assert "- loss: not finite" in before[0]


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 1}', '{"schema": 9}'])
def test_a_damaged_record_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "training.json").write_text(content)
    with pytest.raises(DataError, match=r"training\.json"):
        TrainingRecord.read(tmp_path)


def test_the_results_are_those_of_the_report_with_intervals_subgroups_and_verdict(tmp_path: Path) -> None:
    write_pages(model_document(checkpoint(tmp_path), None, results=report(tmp_path)), tmp_path)
    lines = text_of(tmp_path).splitlines()
    assert "| AUROC | 0.812 [0.750, 0.875] |" in lines
    assert "Criteria: failed." in lines
    assert "| auroc | all | 0.8 | 0.812 [0.750, 0.875] | not met |" in lines
    assert "| sex: F | 12 | 0.688 [0.500, 0.800] |" in lines
    assert "Evaluated: 40 images of 31 patients (2 assumed)." in lines
    assert "- Only 31 patients." in lines
    assert "not defined" in text_of(tmp_path)


def test_the_page_states_what_the_text_states_and_loads_nothing(tmp_path: Path) -> None:
    said = ModelProse(contact=HOSTILE, intended_use="Reading *aid*.\n\n# Title")
    made = model_document(checkpoint(tmp_path, positive=HOSTILE), record(tmp_path), said, report(tmp_path))
    write_pages(made, tmp_path)
    page = (tmp_path / "model_card.html").read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|link|iframe|img|object)\b", page)
    assert all(one.startswith("#") for one in re.findall(r'href="([^"]*)', page))
    assert "<img" not in text_of(tmp_path)
    assert not re.search(r"(?<!\\)\]\(http", text_of(tmp_path))
    cells = [
        cell.strip() for line in re.findall(r"^\| (.*) \|$", text_of(tmp_path), re.M) for cell in line.split(" | ")
    ]
    numbers = Counter(cell for cell in cells if re.fullmatch(r"[\d.]+( \[.*\])?", cell))
    shown = [html.unescape(re.sub("<[^>]+>", "", one)) for one in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", page)]
    assert numbers
    assert not numbers - Counter(shown)
    assert html.escape(f"Contact: {HOSTILE}") in page


def test_prose_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prose.yaml").write_text("contact: a@b\nuse: reading\n")
    with pytest.raises(ConfigError, match="use"):
        read_model_prose(tmp_path / "prose.yaml")
    (tmp_path / "prose.yaml").write_text("contact: a@b\n")
    assert read_model_prose(tmp_path / "prose.yaml").contact == "a@b"
