"""From files of single sequences to predictions: a class that shows in T2 alone, and patients who lack a sequence."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from medvit.artifacts import Checkpoint
from medvit.config import ConfigError
from medvit.dataset.manifest import Manifest
from medvit.dataset.samples import Samples, collate, load
from medvit.errors import DataError
from medvit.inference.predictor import Predictor
from medvit.training.task import choose_preprocess
from medvit.transforms.preprocess import Preprocess
from pipelines.finetune import finetune
from pipelines.ingest import ingest
from pipelines.predict import predict
from pipelines.pretrain import pretrain

NUM_PATIENTS = 48
CHANNELS = {"names": {"T1": r"_t1\.", "T2": r"_t2\."}}
OFF = {"tracking": {"enabled": False}}
BACKBONE = {"name": "channel_vit", "width": 32, "depth": 2, "heads": 2, "patch_size": 4}
TRAINER = {"epochs": 2, "steps_per_epoch": 40, "precision": "32-true"}
TRAINING = {
    **OFF,
    "preprocess": {"size": [16, 16]},
    "trainer": TRAINER,
    "loader": {"batch_size": 8},
    "optim": {"lr": 2e-3},
    "label": "lesion",
}


def lacks(number: int) -> str:
    """Return the sequence that a patient lacks."""
    return {0: "t1", 2: "t2"}.get(number % 6, "")


def write_patient(folder: Path, number: int, *, missing: str = "") -> None:
    """Write noise as T1 and T2; the T2 of every second patient has a bright square."""
    generator = np.random.default_rng(number)
    for sequence in {"t1", "t2"} - {missing}:
        pixels = generator.integers(60, 100, (16, 16), dtype=np.uint8)
        if sequence == "t2" and has_lesion(number):
            row, column = generator.integers(0, 10, 2)
            pixels[row : row + 6, column : column + 6] += 120
        Picture.fromarray(pixels).save(folder / f"p{number:02d}_{sequence}.png")


def has_lesion(number: int) -> bool:
    return number // 3 % 2 == 0


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("channels")
    source = folder / "source"
    source.mkdir()
    with (folder / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["PatientID", "lesion", "split"])
        for number in range(NUM_PATIENTS):
            write_patient(source, number, missing=lacks(number))
            split = "val" if number % 12 in (1, 4) else "test" if number % 12 in (7, 10) else "train"
            table.writerow([f"p{number:02d}", "yes" if has_lesion(number) else "no", split])
    scanning = {"channels": CHANNELS, "patient_from": r"(p\d+)_", "modality": "MR"}
    labeling = {"table": folder / "labels.csv", "by": "patient"}
    output = folder / "dataset"
    ingest(source=source, dataset=output, key=folder / "key", scanning=scanning, labeling=labeling, **OFF)
    return output


@pytest.fixture(scope="module")
def manifest(dataset: Path) -> Manifest:
    return Manifest.read(dataset)


@pytest.fixture(scope="module")
def model(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    output = tmp_path_factory.mktemp("model") / "model"
    return finetune(dataset=dataset, output=output, backbone=BACKBONE, **TRAINING)


def test_the_manifest_says_which_channels_an_image_has(manifest):
    found = sorted(row.channels for row in manifest)
    one = NUM_PATIENTS // 6
    assert found == sorted([("T1",)] * one + [("T2",)] * one + [("T1", "T2")] * (NUM_PATIENTS - 2 * one))
    assert all(row.shape == (len(row.channels), 16, 16) for row in manifest)


def test_the_loader_gives_all_channels_by_name_and_says_which_are_present(manifest):
    chosen = choose_preprocess(manifest)
    assert chosen.channel_names == ("T1", "T2")
    samples = Samples(manifest, Preprocess(kind="image", channel_names=("T2", "T1")))
    batch = collate([samples[index] for index in range(len(manifest))])
    assert batch.pixels.shape == (NUM_PATIENTS, 2, 16, 16)
    for present, row in zip(batch.present.tolist(), manifest, strict=True):
        assert present == ["T2" in row.channels, "T1" in row.channels]


def test_an_unnamed_model_or_one_without_these_channels_is_refused(manifest):
    image = load(manifest, manifest.rows[0])
    with pytest.raises(DataError, match=r"has the named channels .*give preprocess\.channel_names"):
        Preprocess(kind="image")(image)
    with pytest.raises(DataError, match="this model takes FLAIR"):
        Preprocess(kind="image", channel_names=("FLAIR",))(image)
    with pytest.raises(ConfigError, match="expected one name"):
        Preprocess.parse({"channels": 3, "channel_names": ["T1", "T2"]})


def accuracy(predictor: Predictor, manifest: Manifest) -> float:
    """Return the accuracy on test patients with a T2."""
    rows = [row for row in manifest.split("test") if "T2" in row.channels]
    found = [predictor(load(manifest, row)).probabilities for row in rows]
    classes = predictor.config.classes
    return float(
        np.mean([classes[int(p.argmax())] == row.labels["lesion"] for p, row in zip(found, rows, strict=True)])
    )


def test_channel_vit_finds_what_shows_in_one_sequence_alone(manifest, model):
    assert accuracy(Predictor(model, device="cpu"), manifest) >= 0.9


def test_a_patient_without_t2_is_answered_from_t1_and_the_values_of_t1_matter(manifest, model):
    predictor = Predictor(model, device="cpu")
    row = next(row for row in manifest if row.channels == ("T1",))
    found = predictor(load(manifest, row)).probabilities
    assert np.isfinite(found).all()
    assert found.max() < 0.95  # nothing to be sure about


def test_stacked_channels_train_too(dataset, manifest, tmp_path):
    backbone = {**BACKBONE, "name": "vit"}
    stacked = finetune(dataset=dataset, output=tmp_path / "model", backbone=backbone, **TRAINING)
    assert stacked.model["backbone"]["channel_names"] == ["T1", "T2"]
    assert stacked.preprocess["channel_names"] == ["T1", "T2"]
    assert accuracy(Predictor(stacked, device="cpu"), manifest) >= 0.8


def test_predict_combines_the_files_as_ingest_did(model, tmp_path):
    source = tmp_path / "new"
    source.mkdir()
    for number in (60, 63):
        write_patient(source, number)
    write_patient(source, 66, missing="t1")
    Picture.fromarray(np.zeros((16, 16), np.uint8)).save(source / "p60_localizer.png")
    made = predict(checkpoint=model.folder, source=source, output=tmp_path / "out", key=tmp_path / "key", **OFF)
    assert (made.num_done, made.num_failed) == (3, 0)
    with (tmp_path / "out" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len({row["study"] for row in rows}) == 3


def test_dino_and_lora_train_with_missing_channels(dataset, tmp_path):
    views = {"size": [16, 16], "local_size": [8, 8], "num_local": 1}
    trainer = {"epochs": 1, "steps_per_epoch": 2, "precision": "32-true"}
    shared = {**OFF, "trainer": trainer, "loader": {"batch_size": 4}, "preprocess": {"size": [16, 16]}}
    objective = {"name": "lejepa", "views": views}
    pretrained = pretrain(dataset=dataset, output=tmp_path / "p", backbone=BACKBONE, objective=objective, **shared)
    tuned = finetune(dataset=dataset, checkpoint=pretrained.folder, output=tmp_path / "f", label="lesion", **shared)
    assert tuned.model["peft"]["name"] == "lora"
    assert "backbone.channel_embed" in tuned.state
    assert Predictor(tuned, device="cpu").config.backbone.channel_names == ("T1", "T2")


def test_objectives_without_tokens_of_channels_are_refused(dataset, tmp_path):
    with pytest.raises(ConfigError, match="objective=simmim needs one token per patch"):
        pretrain(dataset=dataset, output=tmp_path / "p", backbone=BACKBONE, objective="simmim", **OFF)


@pytest.mark.parametrize("name", ["vit", "channel_vit"])
def test_masked_pretraining_takes_missing_channels(dataset, tmp_path, name):
    trainer = {"epochs": 1, "steps_per_epoch": 2, "precision": "32-true"}
    objective = {"name": "mae", "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2}
    options = {"trainer": trainer, "loader": {"batch_size": 4}, "preprocess": {"size": [16, 16]}, **OFF}
    backbone = {**BACKBONE, "name": name}
    made = pretrain(dataset=dataset, output=tmp_path / "p", backbone=backbone, objective=objective, **options)
    assert all(weight.isfinite().all() for weight in made.state.values())


def test_mixing_is_refused_if_images_lack_channels(dataset, tmp_path):
    with pytest.raises(ConfigError, match="mixing needs images with all channels"):
        finetune(dataset=dataset, output=tmp_path / "m", backbone=BACKBONE, mixing={"mixup": 0.2}, **TRAINING)
