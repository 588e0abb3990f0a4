"""From a checkpoint and a dataset to a report of the metrics, the data and the exclusions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from medvit.artifacts import Checkpoint, Lineage, Report
from medvit.dataset.manifest import Facts, Manifest
from medvit.errors import CheckpointError, ConfigError, DataError
from medvit.evaluation.checklists.answers import TeamAnswers
from medvit.geometry import Affine
from medvit.models.image import Model, ModelConfig
from medvit.records import Row
from medvit.transforms.preprocess import Preprocess
from pipelines.evaluate import evaluate

Make = Callable[..., Path]
VIT = {"name": "vit", "patch_size": 8, "width": 12, "depth": 4, "heads": 2}
SPACING_MM = (1.0, 1.0, 2.0)
CLASSES = {"segmentation": ("background", "organ"), "classification": ("normal", "effusion")}


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Make:
    """An untrained model: its predictions are poor, but always the same."""

    def make(name: str = "checkpoint", *, kind: str = "segmentation", ndim: int = 3, seed: int = 0) -> Path:
        torch.manual_seed(seed)
        config = ModelConfig.parse(
            {
                "kind": kind,
                "backbone": {**VIT, "ndim": ndim, "channels": 1},
                "peft": {"name": "full"},
                "head": {"name": "dense", "channels": 4} if kind == "segmentation" else {"name": "linear"},
                "classes": CLASSES[kind],
                "label": "finding" if kind == "classification" else "",
                "roi": (16,) * ndim if kind == "segmentation" else None,
                "overlap": 0.0,
            }
        )
        chain = Preprocess.parse({"kind": "volume" if ndim == 3 else "image", "channels": 1}).tree()
        state = Model(config, config.backbone.build()).state_dict()
        return Checkpoint(tmp_path / name, config.tree(), chain, state).save().folder

    return make


@pytest.fixture
def make_dataset(tmp_path: Path) -> Make:
    """Eight small images of as many patients, six of them in the test split, with masks and labels."""

    def make(*, ndim: int = 3, split: str = "test", change: Callable[[int, Row], Row] = lambda _, row: row) -> Path:
        folder = tmp_path / "dataset"
        folder.mkdir()
        facts = Facts("balls", classes={"finding": CLASSES["classification"]}, mask_classes=CLASSES["segmentation"])
        manifest = Manifest((), facts, folder)
        generator = np.random.default_rng(0)
        affine = Affine.from_spacing(SPACING_MM)
        rows = []
        for number in range(8):
            radius = generator.uniform(3, 6)
            distance = np.linalg.norm(np.indices((16,) * ndim).T - 8, axis=-1).T
            mask = (distance < radius).astype(np.uint8)
            pixels = (mask * 90 + generator.normal(100, 10, mask.shape)).astype(np.int16)[None]
            row = Row(
                image_id=f"i{number}",
                patient_id=f"p{number}",
                study_id=f"s{number}",
                series_id=f"e{number}",
                modality="CT",
                kind="volume" if ndim == 3 else "image",
                dataset="balls",
                split=split if number < 6 else "train",
                shape=pixels.shape,
                dtype="int16",
                sha256=manifest.store.put(pixels),
                labels={"finding": CLASSES["classification"][number % 2]},
                mask=manifest.store.put(mask),
                affine=tuple(affine.matrix.ravel()) if ndim == 3 else None,
            )
            rows.append(change(number, row))
        replace(manifest, rows=tuple(rows)).write()
        return folder

    return make


SHORT = {"resamples": 100, "cases": 1, "tracking": {"enabled": False}}
"""Options of a report whose cases are not looked at: drawing twelve takes most of its time."""


def run(tmp_path: Path, checkpoint: Path, dataset: Path, **options: object) -> Report:
    paths = {"checkpoint": checkpoint, "dataset": dataset, "output": tmp_path / "report"}
    return evaluate(evaluate.config_type.parse({**SHORT, **paths, **options}))


def saved(report: Report) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((report.folder / "metrics.json").read_text())
    return metrics


def page(report: Report) -> str:
    return (report.folder / "report.html").read_text()


@pytest.mark.usefixtures("whole_figures")
def test_a_segmentation_is_measured_in_millimeters_and_shown(
    tmp_path: Path, make_checkpoint: Make, make_dataset: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run(tmp_path, make_checkpoint(), make_dataset(), cases=4)
    found = saved(report)
    assert {"dice", "hd95_mm", "nsd", "dice.organ", "volume_bias_ml.organ"} <= set(found["metrics"])
    assert found["counts"] == {"images": 6, "patients": 6, "assumed_patients": 0}
    table = pq.read_table(report.folder / "predictions.parquet").to_pydict()
    assert found["metrics"]["dice"]["value"] == pytest.approx(np.nanmean(table["dice"]))
    voxels = np.array(table["true_voxels.organ"])
    assert table["true_volume_ml.organ"] == pytest.approx(voxels * np.prod(SPACING_MM) / 1000)
    assert page(report).count("<figure>") == 2
    assert page(report).count('<button class="open"') == len(found["cases"]["shown"]) > 2
    assert "Dice, organ" in capsys.readouterr().out


@pytest.mark.usefixtures("whole_figures")
def test_a_classification_is_measured_and_its_telling_cases_are_shown(
    tmp_path: Path, make_checkpoint: Make, make_dataset: Make
) -> None:
    report = run(tmp_path, make_checkpoint(kind="classification"), make_dataset(), cases=4)
    assert {"auroc", "average_precision", "sensitivity", "specificity", "ece"} <= set(saved(report)["metrics"])
    assert page(report).count("<figure>") == 4
    assert page(report).count('<button class="open"') == len(saved(report)["cases"]["shown"]) > 0
    table = pq.read_table(report.folder / "predictions.parquet").to_pydict()
    assert np.array(table["p.normal"]) + np.array(table["p.effusion"]) == pytest.approx(np.ones(6))


def test_numbers_of_one_of_two_classes_say_which_and_warn_where_nobody_said(
    tmp_path: Path, make_checkpoint: Make, make_dataset: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, dataset = make_checkpoint(kind="classification"), make_dataset()
    first, second = CLASSES["classification"]
    reports = [
        run(tmp_path, checkpoint, dataset, output=tmp_path / f"report-{name}", positive=name) for name in ("", first)
    ]
    shown = capsys.readouterr().out
    for report, name in zip(reports, (second, first), strict=True):
        assert f"Sensitivity (positive: {name})" in shown
        assert f"Sensitivity (positive: {name})" in page(report)
        assert saved(report)["positive"] == saved(report)["metrics"]["sensitivity"]["positive"] == name
    assert "no positive class was given" in page(reports[0])
    assert "no positive class was given" not in page(reports[1])
    one, other = (saved(report)["metrics"] for report in reports)
    assert one["sensitivity"]["value"] == other["specificity"]["value"]
    kept = evaluate.config_type.load(reports[0].folder / "config.yaml")
    assert (kept.positive, kept.levels, kept.order) == (second, ("image",), ())
    remembered = replace(Manifest.read(dataset).facts, positive={"finding": first})
    replace(Manifest.read(dataset), facts=remembered).write()
    assert saved(run(tmp_path, checkpoint, dataset))["positive"] == first


def test_an_image_that_cannot_be_read_is_left_out_and_told(
    tmp_path: Path, make_checkpoint: Make, make_dataset: Make
) -> None:
    dataset = make_dataset()
    manifest = Manifest.read(dataset)
    lost = next(row for row in manifest if row.split == "test")
    (array,) = manifest.store.folder.glob(f"*/{lost.sha256}*")
    array.write_bytes(array.read_bytes()[:40])
    paths = {"checkpoint": make_checkpoint(), "dataset": dataset, "output": tmp_path / "report"}
    config = evaluate.config_type.parse({**SHORT, **paths})
    finished = evaluate.run(config)
    assert len(finished.failures) == 1
    assert lost.image_id in finished.failures[0]
    assert saved(finished.artifact)["counts"] == {"images": 5, "patients": 5, "assumed_patients": 0}
    assert "1 of 6 images could not be predicted and are excluded" in page(finished.artifact)


@pytest.mark.parametrize("kind", ["segmentation", "classification"])
def test_a_volume_that_is_mostly_nan_is_excluded_and_named(
    tmp_path: Path, make_checkpoint: Make, make_dataset: Make, kind: str
) -> None:
    dataset = make_dataset()
    manifest = Manifest.read(dataset)
    pixels = manifest.store.get(manifest.rows[0].sha256).astype(np.float32)
    pixels[:, 4:] = np.nan
    damaged = replace(manifest.rows[0], sha256=manifest.store.put(pixels), dtype="float32")
    replace(manifest, rows=(damaged, *manifest.rows[1:])).write()
    paths = {"checkpoint": make_checkpoint(kind=kind), "dataset": dataset, "output": tmp_path / "report"}
    config = evaluate.config_type.parse({**SHORT, **paths})
    finished = evaluate.run(config)
    (failure,) = finished.failures
    assert damaged.image_id in failure
    assert "75 % of its voxels are NaN or infinite" in failure
    found = saved(finished.artifact)
    assert found["counts"] == {"images": 5, "patients": 5, "assumed_patients": 0}
    assert all(np.isfinite(found["metrics"][name]["value"]) for name in found["metrics"] if not name.startswith("hd95"))
    assert f"volume {damaged.image_id}: 75 % of its voxels" in page(finished.artifact)


def test_pixels_without_a_physical_scale_are_not_called_millimeters(
    tmp_path: Path, make_checkpoint: Make, make_dataset: Make
) -> None:
    found = saved(run(tmp_path, make_checkpoint(ndim=2), make_dataset(ndim=2)))
    assert "hd95_px" in found["metrics"]
    assert not [name for name in found["metrics"] if "mm" in name or "ml" in name]
    assert found["facts"]["Surface tolerance"] == "1 px"


def test_a_model_differs_from_itself_by_nothing_and_from_another_by_something(
    tmp_path: Path, make_checkpoint: Make, make_dataset: Make
) -> None:
    one, other, dataset = make_checkpoint("one"), make_checkpoint("other", seed=1), make_dataset()
    first = run(tmp_path, one, dataset, output=tmp_path / "first")
    same = saved(run(tmp_path, one, dataset, output=tmp_path / "same", against=first.folder))["differences"]
    assert {one["value"] for one in same.values()} == {0.0}
    assert {(one["low"], one["method"]) for one in same.values()} <= {(None, "agreement"), (None, "few patients")}
    second = run(tmp_path, other, dataset, output=tmp_path / "second", against=first.folder)
    expected = saved(second)["metrics"]["dice"]["value"] - saved(first)["metrics"]["dice"]["value"]
    assert saved(second)["differences"]["dice"]["value"] == pytest.approx(expected)
    assert "Difference from the other report" in page(second)


def test_what_is_compared_with_must_be_a_report_of_the_same_tolerance(
    tmp_path: Path, make_checkpoint: Make, make_dataset: Make
) -> None:
    checkpoint, dataset = make_checkpoint(), make_dataset()
    with pytest.raises(DataError, match="is not a report"):
        run(tmp_path, checkpoint, dataset, against=tmp_path)
    first = run(tmp_path, checkpoint, dataset, output=tmp_path / "first")
    with pytest.raises(DataError, match="a tolerance of 1 mm, here with 2 mm"):
        run(tmp_path, checkpoint, dataset, against=first.folder, nsd_tolerance_mm=2)


def test_another_truth_of_the_same_images_is_refused(tmp_path: Path, make_checkpoint: Make, make_dataset: Make) -> None:
    checkpoint, dataset = make_checkpoint(), make_dataset()
    first = run(tmp_path, checkpoint, dataset, output=tmp_path / "first")
    manifest = Manifest.read(dataset)
    empty = manifest.store.put(np.zeros((16, 16, 16), np.uint8))
    replace(manifest, rows=tuple(replace(row, mask=empty) for row in manifest)).write()
    with pytest.raises(DataError, match="different true labels"):
        run(tmp_path, checkpoint, dataset, against=first.folder)


@pytest.mark.parametrize("kind", ["segmentation", "classification"])
def test_images_without_a_truth_are_left_out_and_counted(
    kind: str, tmp_path: Path, make_checkpoint: Make, make_dataset: Make
) -> None:
    def forget(number: int, row: Row) -> Row:
        return replace(row, mask=None, labels={}) if number < 2 else row

    report = run(tmp_path, make_checkpoint(kind=kind), make_dataset(change=forget))
    assert saved(report)["counts"]["images"] == 4
    assert "2 of 6 images of the split have no truth and were excluded" in page(report)


def test_a_model_of_other_classes_is_refused(tmp_path: Path, make_checkpoint: Make, make_dataset: Make) -> None:
    dataset = make_dataset()
    manifest = Manifest.read(dataset)
    replace(manifest, facts=replace(manifest.facts, mask_classes=("background", "liver"), classes={})).write()
    with pytest.raises(
        DataError, match="the model predicts classes background, organ, the dataset has background, liver"
    ):
        run(tmp_path, make_checkpoint(), dataset)
    with pytest.raises(DataError, match="the model predicts classes normal, effusion, the dataset has no such label"):
        run(tmp_path, make_checkpoint("other", kind="classification"), dataset)


def test_an_empty_split_and_a_bare_backbone_are_refused(
    tmp_path: Path, make_checkpoint: Make, make_dataset: Make
) -> None:
    checkpoint, dataset = make_checkpoint(), make_dataset()
    with pytest.raises(DataError, match="no rows in the split 'val'"):
        run(tmp_path, checkpoint, dataset, split="val")
    backbone = replace(Checkpoint.load(checkpoint), folder=tmp_path / "backbone", model={"kind": "backbone"}).save()
    with pytest.raises(CheckpointError, match="is a backbone checkpoint"):
        run(tmp_path, backbone.folder, dataset)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(("split", "use"), [("train", "was trained on"), ("val", "was selected by")])
def test_numbers_on_images_that_the_model_knows_come_with_a_warning(
    split: str, use: str, tmp_path: Path, make_checkpoint: Make, make_dataset: Make
) -> None:
    checkpoint, dataset = make_checkpoint(), make_dataset(split=split)
    Lineage("finetune", "", inputs={"dataset": Manifest.read(dataset).hash}).write(checkpoint)
    text = page(run(tmp_path, checkpoint, dataset, split=split))
    assert '<p class="warning">' in text
    assert use in text


def test_a_report_on_assumed_patients_says_so(
    tmp_path: Path, make_checkpoint: Make, make_dataset: Make, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = make_dataset(change=lambda _, row: replace(row, patient_is_assumed=True))
    report = run(tmp_path, make_checkpoint(), dataset)
    found = saved(report)
    assert found["facts"]["Split"] == "test: 6 volumes of 6 patients (all assumed)"
    assert found["counts"]["assumed_patients"] == 6
    (note,) = (note for note in found["notes"] if "assumed" in note)
    assert note.startswith("6 of 6 patients are assumed: without an identifier")
    assert note in page(report)
    assert note in caplog.text


def test_patients_in_two_splits_are_told(tmp_path: Path, make_checkpoint: Make, make_dataset: Make) -> None:
    def mix(number: int, row: Row) -> Row:
        return replace(row, patient_id="p0") if number == 7 else row  # the last image is in the train split

    text = page(run(tmp_path, make_checkpoint(), make_dataset(change=mix)))
    assert "1 patient of this split has images in the train split too" in text
    assert "Trained on</th><td>another dataset" in text


def test_a_criterion_that_is_not_met_fails_the_model_and_the_report_still_is_written(
    tmp_path: Path, make_checkpoint: Make, make_dataset: Make
) -> None:
    checkpoint, dataset = make_checkpoint(), make_dataset()
    for bound, verdict in ((0.0, "passed"), (1.0, "failed")):
        output = tmp_path / verdict
        options = {"checkpoint": checkpoint, "dataset": dataset, "output": output}
        criteria = [{"metric": "dice", "bound": bound}]
        finished = evaluate.run(evaluate.config_type.parse({**SHORT, **options, "criteria": criteria}))
        assert len(finished.failures) == (verdict == "failed")
        assert saved(finished.artifact)["verdict"]["name"] == verdict
        assert f'<div class="{verdict}">' in page(finished.artifact)


def test_an_evaluation_of_a_group_has_the_numbers_of_this_subgroup(
    tmp_path: Path, make_checkpoint: Make, make_dataset: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    def of_scanner(number: int, row: Row) -> Row:
        return replace(row, attributes={"model": "AB"[number // 3 % 2], "sex": "F"})

    checkpoint, dataset = make_checkpoint(), make_dataset(change=of_scanner)
    (analysis,) = saved(run(tmp_path, checkpoint, dataset))["subgroups"]["analyses"]
    assert "model: A *" in capsys.readouterr().out  # fewer than 20 patients
    assert analysis["alike"]["sex"] == "F"
    part = run(tmp_path, checkpoint, dataset, output=tmp_path / "part", where={"model": "A"}, subgroups=[])
    (group,) = (one for one in analysis["groups"] if one["name"] == "A")
    assert group["metrics"]["dice"] == saved(part)["metrics"]["dice"]
    assert saved(part)["counts"]["patients"] == group["patients"] == 3
    assert "subgroups" not in saved(part)
    assert "only images with model=A are evaluated: 3 of 6 images, 3 patients of 6" in page(part)
    assert saved(part)["facts"]["Restricted to"] == "model: A"


def test_the_cohort_of_every_split_and_of_the_evaluated_images_is_reported(
    tmp_path: Path, make_checkpoint: Make, make_dataset: Make
) -> None:
    def subject(number: int, row: Row) -> Row:
        return replace(row, attributes={"sex": "FM"[number % 2], "age_years": f"{40 + number}"})

    dataset = make_dataset(change=subject)
    report = run(tmp_path, make_checkpoint(kind="classification"), dataset, where={"sex": "F"})
    cohort = saved(report)["cohort"]
    assert {name: one["patients"] for name, one in cohort.items()} == {"train": 2, "test": 6, "evaluated": 3}
    assert cohort["evaluated"]["patients_by_value"]["sex"] == {"F": 3}
    assert cohort["test"]["images_by_class"] == {"finding": {"normal": 3, "effusion": 3}}
    assert '<th scope="row">age: median [quartiles], lowest to highest</th>' in page(report)


def test_clusters_of_embeddings_are_compared_if_there_are_enough_patients(
    tmp_path: Path, make_checkpoint: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """Clusters are named by the scanner whose images have a texture."""
    checkpoint, folder = make_checkpoint(kind="classification", ndim=2), tmp_path / "many"
    folder.mkdir()
    manifest = Manifest((), Facts("many", classes={"finding": CLASSES["classification"]}), folder)
    draw, rows = np.random.default_rng(0), []
    for number in range(44):
        texture = draw.normal(0, 5, (1, 16, 16)) + (np.indices((16, 16)).sum(axis=0) % 2 * 200 if number % 4 < 2 else 0)
        pixels = (texture + 300).astype(np.int16)
        row = Row(
            image_id=f"i{number:02d}",
            patient_id=f"p{number}",
            study_id=f"s{number}",
            series_id=f"e{number}",
            modality="DX",
            kind="image",
            dataset="many",
            split="test",
            shape=pixels.shape,
            dtype="int16",
            sha256=manifest.store.put(pixels),
            labels={"finding": CLASSES["classification"][number % 2]},
            attributes={"model": "AB"[number % 4 < 2]},
        )
        rows.append(row)
    replace(manifest, rows=tuple(rows)).write()
    attributes, strata = saved(run(tmp_path, checkpoint, folder))["subgroups"]["analyses"]
    assert (attributes["title"], strata["title"]) == ("Subgroups", "Hidden strata")
    assert sorted(group["name"].partition(" (")[0] for group in strata["groups"]) == ["1, model B", "2, model A"]
    assert sum(group["items"] for group in strata["groups"]) == 44
    assert "Hidden strata, by AUROC" in capsys.readouterr().out
    without = run(tmp_path, checkpoint, folder, output=tmp_path / "without", hidden_strata=False)
    assert [one["title"] for one in saved(without)["subgroups"]["analyses"]] == ["Subgroups"]


def test_answers_of_the_team_are_in_the_checklists_and_kept_in_the_template(
    tmp_path: Path, make_checkpoint: Make, make_dataset: Make
) -> None:
    path = tmp_path / "answers.yaml"
    path.write_text("funding: none\nstudy: {design: retrospective}\n")
    report = run(tmp_path, make_checkpoint(kind="classification"), make_dataset(), answers=path)
    found = saved(report)["checklists"]
    assert found["CLAIM 2024"]["items"]["44"]["team"] == {"funding": "none"}
    assert found["STARD-AI 2025"]["items"]["32"]["reason"] == "the study is retrospective, as the team states"
    assert found["CLAIM 2024"]["items"]["22"]["sections"] == ["Model and training", "Lineage"]
    assert found["CLAIM 2024"]["items"]["25"]["state"] == "not stated"  # the model was not trained
    assert saved(report)["flow"]["evaluated"] == {"images": 6, "patients": 6}
    assert TeamAnswers.read(report.folder / "report.yaml") == TeamAnswers.read(path)


def test_a_misspelled_answer_ends_the_evaluation_before_it_begins(
    tmp_path: Path, make_checkpoint: Make, make_dataset: Make
) -> None:
    path = tmp_path / "answers.yaml"
    path.write_text("fundings: none\n")
    with pytest.raises(ConfigError, match="did you mean 'funding'"):
        run(tmp_path, make_checkpoint(kind="classification"), make_dataset(), answers=path)
