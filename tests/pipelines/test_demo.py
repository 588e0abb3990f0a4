"""Phantoms and texts of the demo; `make demo` runs the whole."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medvit import phantoms
from medvit.engine import EngineConfig
from medvit.errors import MedvitError
from medvit.tracking import TrackingConfig
from pipelines._demo_summary import NewStudies, figures, figures_by_level, first_look, new_dice
from pipelines.demo import NEW_SEED, NEW_STUDIES, DemoConfig, DemoStages, draw_phantoms, run_steps
from tests.plugins.candidates import Write

SMALL = DemoConfig(num_volumes=10, num_unlabeled=3, num_radiographs=20, num_eyes=16, engine={}).model_copy(
    update={"num_volumes": 3, "num_unlabeled": 1, "num_radiographs": 2, "num_eyes": 1, "num_slides": 2}
)
STUDIES = NewStudies(NEW_STUDIES, NEW_SEED)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_phantoms(tmp_path_factory.mktemp("demo") / "phantoms", SMALL)


def write_truths(folder: Path, *, seed: int, shift: int = 0) -> None:
    for number in range(1, NEW_STUDIES):
        labels, affine = phantoms.ct_labels(number, seed=seed + NEW_SEED)
        turned = nib.Nifti1Image(np.roll(labels, shift, axis=0), affine.matrix).as_reoriented(
            np.array([[1, -1], [0, 1], [2, -1]])
        )
        (folder / f"s-{number}").mkdir()
        nib.save(turned, folder / f"s-{number}" / "mask.nii.gz")


def test_new_studies_are_not_among_the_training_images(drawn: Path) -> None:
    new = {path.read_bytes() for path in (drawn / "new-radiographs").rglob("*.dcm")}
    assert len(new) == 6
    assert len(list((drawn / "new-studies").iterdir())) == NEW_STUDIES
    assert len(list((drawn / "ct" / "images").iterdir())) == 3
    assert len(list((drawn / "ct" / "unlabeled").iterdir())) == 1


def test_one_new_study_lacks_one_slice(drawn: Path) -> None:
    num_slices = [len(list((study / "abdomen").iterdir())) for study in sorted((drawn / "new-studies").iterdir())]
    assert num_slices == [31, 32, 32, 48]  # axial three times, the first without one of its 32, then coronal


def test_drawing_twice_draws_once(drawn: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in drawn.rglob("*")}
    assert draw_phantoms(drawn, SMALL) == drawn
    assert {path: path.stat().st_mtime_ns for path in drawn.rglob("*")} == before


def test_the_truth_in_any_orientation_has_a_dice_of_one(tmp_path: Path) -> None:
    write_truths(tmp_path, seed=0)
    assert list(new_dice(tmp_path, STUDIES).values()) == [1.0] * (NEW_STUDIES - 1)


def test_a_mask_in_the_wrong_place_has_a_low_dice(tmp_path: Path) -> None:
    write_truths(tmp_path, seed=0, shift=12)
    assert max(new_dice(tmp_path, STUDIES).values()) < 0.5


def test_figures_come_with_their_interval(tmp_path: Path) -> None:
    metrics = {
        "dice.liver": {"value": 0.9, "low": 0.85, "high": 0.95},
        "auroc": {"value": 0.7, "low": 0.6, "high": 0.8},
    }
    (tmp_path / "metrics.json").write_text(json.dumps({"metrics": metrics}), encoding="utf-8")
    (line,) = figures(tmp_path, ("dice",))
    assert "liver" in line
    assert line.endswith("0.900 [0.850, 0.950]")


def test_figures_of_eyes_name_their_level(tmp_path: Path) -> None:
    auroc = {"value": 0.7, "low": 0.6, "high": 0.8}
    levels = [
        {"name": name, "items": 9, "patients": 3, "metrics": {"auroc": auroc}} for name in ("image", "eye", "patient")
    ]
    (tmp_path / "metrics.json").write_text(json.dumps({"breakdowns": {"By level": levels}}), encoding="utf-8")
    lines = figures_by_level(tmp_path, "auroc")
    assert [line.split(",")[1].split()[:2] for line in lines] == [["by", "eye"], ["by", "patient"]]


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A folder with the results of the demo that its last screen uses."""
    organs, slides = tmp_path / "ct-predictions", tmp_path / "slide-predictions"
    organs.mkdir()
    write_truths(organs, seed=0)
    for name in ("s-low", "s-high"):
        (slides / name).mkdir(parents=True)
        (slides / name / "preview.png").touch()
    text = "study,series,class,probability\ns-low,e,tumor,0.2\ns-high,e,tumor,0.9\ns-low,e,normal,0.8\n"
    (slides / "predictions.csv").write_text(text, encoding="utf-8")
    return tmp_path


def test_every_path_that_the_first_look_names_exists(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for study in (finished / "ct-predictions").iterdir():
        for name in ("preview.png", "segmentation.dcm"):
            (study / name).touch()
    (finished / "eye-report").mkdir()
    for name in ("eye-report/report.html", "mlflow.db"):
        (finished / name).touch()
    monkeypatch.chdir(finished)
    words = [
        word for one in first_look(finished, STUDIES, TrackingConfig()) for word in (one.where + " " + one.what).split()
    ]
    paths = [
        Path(word.removeprefix("sqlite:///").rstrip(",;:."))
        for word in words
        if word.removeprefix("sqlite:///").startswith("/")
    ]
    assert len(paths) == 7  # four files, two programs, one database
    assert all(path.exists() for path in paths)


def test_the_first_look_is_two_pictures_a_report_a_dicom_object_and_the_mlflow_page(finished: Path) -> None:
    looks = first_look(finished, STUDIES, TrackingConfig())
    assert [one.kind for one in looks] == ["picture", "picture", "report", "DICOM", "MLflow"]
    assert looks[1].path == finished / "slide-predictions" / "s-high" / "preview.png"
    assert looks[4].where.endswith(f"mlflow ui --backend-store-uri sqlite:///{Path.cwd() / 'mlflow.db'}")


def test_programs_that_the_first_look_names_are_installed(finished: Path) -> None:
    text = " ".join(f"{one.where} {one.what}" for one in first_look(finished, STUDIES, TrackingConfig()))
    programs = [Path(word) for word in text.split() if Path(word).name in ("mlflow", "pydicom")]
    assert len(programs) == 2
    assert all(os.access(path, os.X_OK) for path in programs)


def test_without_tracking_there_is_no_mlflow_page_to_look_at(finished: Path) -> None:
    assert [one.kind for one in first_look(finished, STUDIES, TrackingConfig(enabled=False))][-1] == "DICOM"


def domains_of(folder: Path, source: Path, *, resume: bool = False) -> list[DemoStages]:
    """Two domains of two stages: the second needs the dataset that the first makes."""
    config = DemoConfig(output=folder, resume=resume, tracking={"enabled": False})
    domains = [DemoStages(name, config) for name in ("one", "two")]
    for job in domains:
        dataset = job.ingest(f"{job.name}-images", source)
        job.add("export", f"{job.name}-files", dataset=dataset)
    return domains


def test_domains_run_side_by_side_and_the_stages_of_each_in_their_order(write_png: Write, tmp_path: Path) -> None:
    write_png("a.png")
    domains = domains_of(tmp_path / "demo", tmp_path / "source")
    run_steps(domains, DemoConfig().engine)
    for job in domains:
        assert all(step.folder.is_dir() for step in job.steps)
        made = (job.steps[0].folder / "manifest.parquet").stat().st_mtime_ns
        assert made < job.steps[1].folder.stat().st_mtime_ns


def test_a_stage_that_fails_ends_the_demo_and_a_resumed_demo_repeats_none_that_ended(
    write_png: Write, tmp_path: Path
) -> None:
    write_png("a.png")
    one, two = domains_of(tmp_path / "demo", tmp_path / "source")
    lost = replace(two.steps[0], options={**two.steps[0].options, "source": tmp_path / "lost"})
    two.steps[0] = lost
    with pytest.raises(MedvitError, match="lost"):
        run_steps([one, two], EngineConfig())
    kept = one.steps[0].folder
    before = kept.stat().st_mtime_ns
    again = domains_of(tmp_path / "demo", tmp_path / "source", resume=True)
    run_steps(again, EngineConfig())
    assert kept.stat().st_mtime_ns == before
    assert all(step.folder.is_dir() for job in again for step in job.steps)
