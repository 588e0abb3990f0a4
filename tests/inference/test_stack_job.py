"""Predicting studies with several models on one backbone gives what each model gives alone."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from medvit import readers
from medvit.artifacts import ADAPTER, Checkpoint, Predictions
from medvit.errors import CheckpointError, ConfigError
from medvit.inference import study_job
from medvit.inference.jobs import names_of
from medvit.inference.stack_predictor import StackPredictor
from medvit.phantoms import write_ct_studies
from medvit.stage import Finished
from medvit.transforms.preprocess import Preprocess
from pipelines.predict import predict
from tests.models.tuned import backbone_in, tuned_in

COARSE = {"kind": "volume", "spacing_mm": (16.0, 16.0, 16.0)}
DENSE = {"kind": "segmentation", "head": {"name": "dense", "channels": 4}, "roi": (16, 16, 16), "overlap": 0.0}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    write_ct_studies(folder, 2)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models that read the CT series: two with frozen features, and one with an adapter and finer voxels."""
    folder = tmp_path_factory.mktemp("models")
    backbone = backbone_in(folder / "backbone", ndim=3)
    rule = {"applies_to": {"kind": "volume", "modality": "CT"}}
    finer = {"kind": "volume", "spacing_mm": (12.0, 12.0, 12.0)}
    return {
        "organs": tuned_in(folder / "organs", backbone, peft="frozen", preprocess=COARSE, **DENSE, **rule),
        "effusion": tuned_in(folder / "effusion", backbone, peft="frozen", preprocess=COARSE, store="adapter", **rule),
        "vessels": tuned_in(folder / "vessels", backbone, preprocess=finer, seed=3, **DENSE, **rule),
        "mr": tuned_in(folder / "mr", backbone, peft="frozen", applies_to={"kind": "volume", "modality": "MR"}),
    }


def run(source: Path, output: Path, *checkpoints: Path, **options: Any) -> Finished[Predictions]:
    tree = {"checkpoint": [str(one) for one in checkpoints], "source": source, "output": output}
    tree |= {"key": output.parent / "site.key", "tracking": {"enabled": False}}
    return predict.run(predict.config_type.parse(tree | options))


def table(path: Path, *, without: str = "") -> list[dict[str, str]]:
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    return [{key: value for key, value in row.items() if key != without} for row in rows]


def test_each_model_writes_into_its_folder_what_it_writes_alone(
    source: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    chosen = {name: models[name] for name in ("organs", "effusion", "vessels")}
    together = run(source, tmp_path / "together", *chosen.values())
    assert together.failures == ()
    assert together.artifact.num_done == 2
    rows = table(tmp_path / "together" / "predictions.csv")
    assert Counter(row["model"] for row in rows) == {"organs": 4, "effusion": 4, "vessels": 4}
    for name, folder in chosen.items():
        alone = run(source, tmp_path / name, folder).artifact.folder
        own = [row for row in rows if row["model"] == name]
        assert [{**row, "model": ""} for row in own] == table(alone / "predictions.csv")
        for study in table(alone / "status.csv"):
            expected = alone / study["study"] / "mask.nii.gz"
            found = tmp_path / "together" / study["study"] / name / "mask.nii.gz"
            assert found.exists() == expected.exists() == (name != "effusion")
            if expected.exists():
                masks = [np.asarray(nib.load(path).dataobj) for path in (found, expected)]
                np.testing.assert_array_equal(*masks)
                assert len(np.unique(masks[0])) > 1
    outputs = [line["outputs"].split(";") for line in table(tmp_path / "together" / "status.csv")]
    assert all({"organs/segmentation.dcm", "vessels/mask.nii.gz"} <= set(names) for names in outputs)


def test_each_series_is_read_once_and_prepared_once_for_the_same_preprocessing(
    source: Path, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: Counter[str] = Counter()
    prepared = Preprocess.prepared

    def counted_read(item: Any) -> Any:
        counts["read"] += 1
        return readers.read(item)

    def counted_preparation(self: Preprocess, image: Any) -> Any:
        counts["prepared"] += 1
        return prepared(self, image)

    monkeypatch.setattr(study_job, "read", counted_read)
    monkeypatch.setattr(Preprocess, "prepared", counted_preparation)
    run(source, tmp_path / "out", models["organs"], models["effusion"], models["vessels"], outputs=[])
    assert counts == {"read": 2, "prepared": 4}


def test_a_model_without_a_fitting_series_is_named_and_the_others_are_written(
    source: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    made = run(source, tmp_path / "out", models["organs"], models["mr"], outputs=[])
    assert made.failures == ()
    for line in table(tmp_path / "out" / "status.csv"):
        assert line["status"] == "done"
        assert line["reason"].startswith("mr was skipped: the study has ")
    assert {row["model"] for row in table(tmp_path / "out" / "predictions.csv")} == {"organs"}


def test_a_model_that_fails_is_reported_and_the_others_are_written(
    source: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    backbone = models["organs"].parent / "backbone"
    broken = tuned_in(tmp_path / "broken", backbone, peft="frozen", preprocess=COARSE, store="adapter", **DENSE)
    weights = load_file(broken / ADAPTER)
    save_file({name: torch.full_like(weight, torch.nan) for name, weight in weights.items()}, broken / ADAPTER)
    made = run(source, tmp_path / "out", models["organs"], broken, outputs=["nifti"])
    assert made.artifact.num_done == 2
    assert len(made.failures) == 2
    assert all("there is no result of broken: " in failure for failure in made.failures)
    for line in table(tmp_path / "out" / "status.csv"):
        assert [path.name for path in (tmp_path / "out" / line["study"]).iterdir()] == ["organs"]


def test_an_output_is_written_by_the_models_it_fits_and_refused_if_it_fits_none(
    source: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    run(source, tmp_path / "out", models["organs"], models["effusion"], outputs=["nifti"])
    assert {line["outputs"] for line in table(tmp_path / "out" / "status.csv")} == {"organs/mask.nii.gz"}
    with pytest.raises(ConfigError, match="outputs contains heatmap, a writer for slide models"):
        run(source, tmp_path / "other", models["organs"], models["effusion"], outputs=["heatmap"])


def test_models_on_other_backbones_are_refused_before_any_study_is_read(
    source: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    other = tuned_in(tmp_path / "other", backbone_in(tmp_path / "elsewhere", ndim=3, seed=5), peft="frozen")
    with pytest.raises(CheckpointError, match="the checkpoints do not share one backbone: that of organs is "):
        run(source, tmp_path / "out", models["organs"], other)


def test_folders_of_one_name_are_told_apart_by_those_above(tmp_path: Path) -> None:
    paths = [tmp_path / "liver" / "model", tmp_path / "lung" / "model", tmp_path / "other"]
    assert names_of(paths[:1]) == ["model"]
    assert names_of(paths) == ["liver-model", "lung-model", f"{tmp_path.name}-other"]
    with pytest.raises(ConfigError, match="checkpoint has a folder twice"):
        names_of([paths[0], paths[0]])


def test_horizons_are_reported_as_ignored_only_if_no_model_predicts_survival(
    models: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    times = {"classes": ("days > 10", "days > 90"), "label": "days", "event": "death", "intervals": ((10.0, 90.0),)}
    survival = tuned_in(tmp_path / "survival", models["effusion"].parent / "backbone", kind="survival", **times)
    chosen = {name: Checkpoint.load_adapter(folder) for name, folder in (models | {"survival": survival}).items()}
    stack = StackPredictor({name: chosen[name] for name in ("effusion", "survival")}, "cpu", (30.0,))
    assert stack.horizons == (30.0,)
    assert "ignored" not in caplog.text
    StackPredictor({name: chosen[name] for name in ("effusion", "organs")}, "cpu", (30.0,))
    assert caplog.text.count("horizons is ignored") == 1
