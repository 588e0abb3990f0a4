"""Sections on model, dataset and flow: a fact is declared only if the section states it."""

from __future__ import annotations

from pathlib import Path

import pytest

from medvit.artifacts import CONFIG
from medvit.config import to_yaml
from medvit.dataset import quarantine
from medvit.dataset.manifest import Facts, Manifest
from medvit.dataset.quarantine import Quarantined
from medvit.document import Table
from medvit.evaluation.checklists.dataset_section import _refused, dataset_part
from medvit.evaluation.checklists.model_section import _of_training
from medvit.evaluation.fact import Fact
from medvit.evaluation.part import ReportPart
from medvit.records import Row


def manifest(folder: Path, facts: Facts, **attributes: str) -> Manifest:
    rows = tuple(
        Row(f"i{n}", f"p{n}", "s", "e", "MR", "image", "d", "test", (1, 8, 8), "int16", "0", attributes=attributes)
        for n in range(3)
    )
    return Manifest(rows, facts, folder)


def text(part: ReportPart) -> str:
    return str(part.section.blocks)


def test_a_dataset_without_records_states_nothing(tmp_path: Path) -> None:
    assert dataset_part(manifest(tmp_path, Facts("d"))).facts == set()


@pytest.mark.parametrize(
    ("facts", "attributes", "fact", "words"),
    [
        (Facts("d", license="CC0"), {}, Fact.DATA_LICENSE, "CC0"),
        (Facts("d", source="example.org"), {}, Fact.DATA_SOURCE, "example.org"),
        (Facts("d", classes={"finding": ("no", "yes")}), {}, Fact.LABELS, "finding: no, yes"),
        (Facts("d", mask_classes=("background", "organ")), {}, Fact.LABELS, "background, organ"),
        (Facts("d"), {"manufacturer": "ACME"}, Fact.ACQUISITION, "ACME (3)"),
    ],
)
def test_a_dataset_states_what_it_records(
    tmp_path: Path, facts: Facts, attributes: dict[str, str], fact: Fact, words: str
) -> None:
    part = dataset_part(manifest(tmp_path, facts, **attributes))
    assert part.facts == {fact}
    assert words in text(part)


def test_rules_of_ingest_are_stated_without_paths_and_words_of_patients(tmp_path: Path) -> None:
    options = {
        "scanning": {"modality": "MR", "patient_from": "/anna/(.*)"},
        "splits": {"val": 0.15, "salt": 0},
        "taking": {"burned_in": {"policy": "quarantine"}},
        "deidentify": {"words": ["anna"]},
    }
    (tmp_path / CONFIG).write_text(to_yaml(options))
    part = dataset_part(manifest(tmp_path, Facts("d")))
    assert part.facts == {Fact.RULES_OF_IMAGES, Fact.SPLIT_RULE, Fact.DEIDENTIFICATION}
    assert "anna" not in text(part)
    assert "policy quarantine" in text(part)


def test_refused_files_are_counted_by_reason(tmp_path: Path) -> None:
    found = [Quarantined(f"f{n}", "damaged", f"reason {n % 10}", 2) for n in range(30)]
    quarantine.write(found, tmp_path)
    sentence, table = _refused(quarantine.read(tmp_path))
    assert sentence == "Ingest refused 60 files of the source."
    assert isinstance(table, Table)
    assert sum(line[1] for line in table.lines) == 60
    assert table.lines[-1][0] == "2 more reasons"


def test_options_of_training_are_stated_only_if_they_are_recorded() -> None:
    assert not list(_of_training({"dataset": "d"}, "classification"))
    trained = {"optim": {"lr": 0.1}, "balance": "sampler", "keep": "best"}
    facts = {fact for fact, _, _ in _of_training(trained, "classification")} - {None}
    assert facts == {Fact.TRAINING, Fact.IMBALANCE, Fact.CHOICE_OF_MODEL}
    assert Fact.IMBALANCE not in {fact for fact, _, _ in _of_training(trained, "regression")}
    assert Fact.IMBALANCE not in {fact for fact, _, _ in _of_training({**trained, "balance": "off"}, "slide")}
