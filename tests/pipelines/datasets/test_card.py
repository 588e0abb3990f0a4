"""A rewritten card equals that of ingest; two datasets are compared by one command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medvit import phantoms
from medvit.artifacts import METRICS, Checkpoint, Lineage
from medvit.cards.model import write_model_card
from medvit.errors import ConfigError
from pipelines.__main__ import main
from pipelines.datasets.card import CardConfig, card
from pipelines.ingest import ingest
from tests.cards.test_model_card import REPORT
from tests.models.tuned import backbone_in, tuned_in

OFF = {"enabled": False}


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    phantoms.write_ct_studies(folder / "source", 3)
    return ingest(source=folder / "source", dataset=folder / "ct", key=folder / "key", tracking=OFF).folder


def test_the_card_of_one_dataset_is_made_anew(studies: Path, tmp_path: Path) -> None:
    made = card(a=studies, output=tmp_path / "out", tracking=OFF)
    assert (made.folder / "card.md").read_text() == (studies / "card.md").read_text()
    plots = sorted(path.name for path in (studies / "card").iterdir())
    assert sorted(path.name for path in (made.folder / "card").iterdir()) == plots


def test_two_datasets_are_compared(studies: Path, tmp_path: Path) -> None:
    phantoms.write_radiograph_studies(tmp_path / "films", 4)
    films = ingest(source=tmp_path / "films", dataset=tmp_path / "dx", key=tmp_path / "key", tracking=OFF).folder
    words = [f"a={studies}", f"b={films}", f"output={tmp_path / 'out'}", "tracking.enabled=false"]
    assert main(["card", *words]) == 0
    text = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert "| modality | large |" in text
    assert "One of the datasets has only 3 patients" in text


def test_the_card_tells_of_flags_copies_and_scanners(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number, pixels in enumerate((np.zeros((32, 32), np.uint8), np.full((32, 32), 9, np.uint8))):
        Image.fromarray(pixels).save(source / f"{number}.png")
    clouds = np.random.default_rng(0).integers(0, 255, (6, 6), dtype=np.uint8)
    for name in ("2.png", "3.png"):
        Image.fromarray(clouds).resize((48, 48), Image.Resampling.BICUBIC).save(source / name)
    made = ingest(source=source, dataset=tmp_path / "a", key=tmp_path / "key", tracking=OFF).folder
    text = (made / "card.md").read_text(encoding="utf-8")
    assert "| constant | all pixels have one value | 2 |" in text
    assert "| identical pixels | 1 | 2 |" in text
    assert (made / "card" / "flags.png").read_bytes().startswith(b"\x89PNG")
    assert "Scanners" not in text


def test_the_card_tells_of_scanners(studies: Path) -> None:
    text = (studies / "card.md").read_text(encoding="utf-8")
    assert "| manufacturer | 3 | medvit (3) |" in text
    assert "| sex | 3 | O (3) |" in text


def test_the_card_of_a_model_needs_a_report_on_this_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    backbone = backbone_in(tmp_path / "backbone")
    models = {}
    for seed, name in enumerate("ab"):
        models[name] = Checkpoint.load(tuned_in(tmp_path / name, backbone, seed=seed))
        write_model_card(models[name], figures={"loss": 0.5}, training={"seed": "3"})
    before = {path: path.read_bytes() for path in sorted((tmp_path / "a").iterdir())}
    report = tmp_path / "report"
    report.mkdir()
    (report / METRICS).write_text(json.dumps(REPORT))
    Lineage("evaluate", "", {"checkpoint": models["a"].hash}).write(report)
    (tmp_path / "prose.yaml").write_text("contact: someone\n")
    words = [f"report={report}", f"card={tmp_path / 'prose.yaml'}", "tracking.enabled=false"]
    assert main(["card", f"checkpoint={tmp_path / 'a'}", f"output={tmp_path / 'out'}", *words]) == 0
    text = (tmp_path / "out" / "model_card.md").read_text(encoding="utf-8")
    for line in ("- Contact: someone", "- seed: 3", "| AUROC | 0.812 [0.750, 0.875] |"):
        assert line in text.splitlines()
    assert {path: path.read_bytes() for path in sorted((tmp_path / "a").iterdir())} == before
    assert main(["card", f"checkpoint={tmp_path / 'b'}", f"output={tmp_path / 'other'}", *words]) == 2
    assert "give the report of an evaluation of this model" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [{}, {"a": "x", "checkpoint": "y"}, {"checkpoint": "y", "b": "x"}, {"a": "x", "report": "y"}]
)
def test_a_card_has_one_subject(options: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="give"):
        CardConfig.parse({**options, "output": "z"}, source="card")
