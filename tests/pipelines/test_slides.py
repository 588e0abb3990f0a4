"""Slides from ingest's datasets to labels, reports and maps: the same three commands as for images."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
import torch

from medvit.artifacts import Checkpoint
from medvit.backbones.vit import VitConfig
from medvit.dataset.manifest import Manifest
from medvit.errors import CheckpointError, ConfigError, DataError
from medvit.training.planning.table import _bytes
from medvit.transforms.preprocess import Normalization, Preprocess
from pipelines.evaluate import evaluate
from pipelines.finetune import finetune
from pipelines.plan import FinetunePlanConfig, plan
from pipelines.predict import predict
from tests.wsi.slides import CLASSES, HEIGHT, MPP, SIZE, SPOT, WIDTH, picture, write_dataset, write_slide

OFF = {"tracking": {"enabled": False}}
BACKBONE = {"name": "vit", "ndim": 2, "channels": 3, "patch_size": 16, "width": 12, "depth": 1, "heads": 2}
QUICK = {"trainer": {"epochs": 2, "steps_per_epoch": 15}, "loader": {"batch_size": 4}, "optim": {"lr": 3e-2}}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a key, a dataset of 24 slides of 12 patients, and an untrained backbone of tiles."""
    folder = tmp_path_factory.mktemp("slides")
    write_dataset(folder / "dataset", 32, key=folder / "site.key", slides_a_patient=2)
    torch.manual_seed(0)
    state = VitConfig.parse(BACKBONE).build().state_dict()
    chain = Preprocess(kind="image", channels=3, intensity=Normalization(method="range"))
    Checkpoint(folder / "backbone", {"kind": "backbone", "backbone": BACKBONE}, chain.tree(), state).save()
    return folder


def learn(place: Path, output: Path, **options):
    tree = {"dataset": place / "dataset", "checkpoint": place / "backbone", "output": output}
    slides = {"slides": {"key": place / "site.key"}, "seeds": 2, "bags": {"tiles": 32}}
    return finetune.run(finetune.config_type.parse({**tree, **slides, **QUICK, **OFF, **options}))


@pytest.fixture(scope="module")
def model(place: Path) -> Path:
    return learn(place, place / "model").artifact.folder


def judge(place: Path, model: Path, output: Path, **options):
    tree = {"checkpoint": model, "dataset": place / "dataset", "output": output, "resamples": 100}
    slides = {"slides": {"key": place / "site.key"}}
    return evaluate.run(evaluate.config_type.parse({**tree, **slides, **OFF, **options}))


def apply(model: Path, source: Path, output: Path, **options):
    tree = {"checkpoint": model, "source": source, "output": output, "key": output.with_name("other.key")}
    return predict.run(predict.config_type.parse({**tree, **OFF, **options}))


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_a_model_of_slides_keeps_all_that_it_needs(model):
    checkpoint = Checkpoint.load(model)
    assert checkpoint.kind == "slide"
    assert checkpoint.model["classes"] == list(CLASSES)
    assert checkpoint.model["tiles"] == {"size": SIZE, "mpp": MPP, "overlap": 0.0, "min_tissue": 0.1, "skip": []}
    assert {name.partition(".")[0] for name in checkpoint.state} == {"backbone", "members"}
    assert {name.partition(".")[0] for name in checkpoint.stored_adapter()} == {"members"}
    card = (model / "model_card.md").read_text()
    assert card.startswith("# Slide model")
    assert "2, whose logits are averaged" in card
    assert not list(model.glob(".head-*"))
    assert not (model / "last.ckpt").exists()


@pytest.mark.usefixtures("whole_figures")
def test_the_report_tells_slides_and_patients_apart_and_shows_maps(place, model, tmp_path):
    report = judge(place, model, tmp_path / "report").artifact
    metrics = json.loads((report.folder / "metrics.json").read_text())
    assert metrics["counts"] == {"images": 8, "patients": 4, "assumed_patients": 0}
    assert metrics["metrics"]["auroc"]["value"] == 1.0
    assert {"auroc", "patient_auroc", "patient_brier"} <= metrics["metrics"].keys()
    page = (report.folder / "report.html").read_text()
    assert "AUROC, of patients" in page
    shown = page.partition('<table class="cases">')[2].partition("</table>")[0]
    assert shown.count("<td>probability of the true class") == shown.count("<img") == 2
    assert "each has the mean of the probabilities of its images" in page


def test_embeddings_serve_all_runs_and_nothing_is_embedded_twice(place, model, tmp_path, caplog):
    caplog.set_level("INFO")
    judge(place, model, tmp_path / "first")
    caplog.clear()
    judge(place, model, tmp_path / "second")
    learn(place, tmp_path / "again", seeds=1, head={"name": "mean"})
    messages = [record.message for record in caplog.records if "exist already" in record.message]
    assert "embeddings of 8 of 8 slides exist already" in messages
    assert "embeddings of 24 of 24 slides exist already" in messages


def test_a_folder_of_slides_becomes_probabilities_and_maps(model, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for number in range(2):
        write_slide(source / f"{number}.tif", picture(100 + number, has_tumor=bool(number)))
    done = apply(model, source, tmp_path / "out")
    lines = table(tmp_path / "out" / "status.csv")
    assert [line["status"] for line in lines] == ["done", "done"]
    assert not done.failures
    expected = "attention.tif;class-1-tumor.tif;preview.png;tiles.geojson"
    assert [line["outputs"] for line in lines] == [expected] * 2
    rows = table(tmp_path / "out" / "predictions.csv")
    assert sum(row["class"] == "tumor" and float(row["probability"]) > 0.5 for row in rows) == 1
    ill = next(row["study"] for row in rows if row["class"] == "tumor" and float(row["probability"]) > 0.5)
    features = json.loads((tmp_path / "out" / ill / "tiles.geojson").read_text())["features"]
    assert sum(feature["properties"]["measurements"]["attention"] for feature in features) == pytest.approx(1, abs=1e-3)
    heat = openslide.OpenSlide(tmp_path / "out" / ill / "class-1-tumor.tif")
    mpp = float(heat.properties[openslide.PROPERTY_NAME_MPP_X])
    assert mpp * heat.dimensions[0] == pytest.approx(MPP * WIDTH, rel=1e-3)  # microns
    assert mpp * heat.dimensions[1] == pytest.approx(MPP * HEIGHT, rel=1e-3)
    pixels = np.asarray(heat.read_region((0, 0), 0, heat.dimensions).convert("L")).astype(float)
    scale = heat.dimensions[0] / WIDTH
    rows_in, columns_in = (slice(round(part.start * scale) + 1, round(part.stop * scale) - 1) for part in SPOT)
    outside = pixels[: round(SPOT[0].start * scale) - 1, columns_in]
    assert pixels[rows_in, columns_in].mean() > outside.mean() + 20  # gray levels of a map whose low end is dark


def test_slides_that_cannot_be_done_are_told_and_the_rest_goes_on(model, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    write_slide(source / "good.tif", picture(1, has_tumor=True))
    cut = write_slide(source / "cut.tif", picture(2, has_tumor=True))
    cut.write_bytes(cut.read_bytes()[:5000])
    write_slide(source / "glass.tif", np.full((HEIGHT, WIDTH, 3), 245, np.uint8))
    write_slide(source / "coarse.tif", picture(3, has_tumor=False), mpp=2.0)
    (source / "broken.svs").write_text("no slide")
    done = apply(model, source, tmp_path / "out")
    lines = table(tmp_path / "out" / "status.csv")
    assert sorted(line["status"] for line in lines) == ["done", "failed", "failed", "failed", "failed"]
    assert all(str(tmp_path) not in line["reason"] and line["reason"] for line in lines if line["status"] == "failed")
    assert len(done.failures) == 4
    assert not list((tmp_path / "out").glob("**/embeddings.json"))


def test_a_slide_without_microns_per_pixel_says_what_to_give(model, tmp_path):
    import tifffile

    source = tmp_path / "source"
    source.mkdir()
    with tifffile.TiffWriter(source / "plain.tif") as writer:
        for step in (1, 4):
            writer.write(
                picture(1, has_tumor=True)[::step, ::step], photometric="rgb", tile=(64, 64), subfiletype=step // 4
            )
    apply(model, source, tmp_path / "out")
    (line,) = table(tmp_path / "out" / "status.csv")
    assert line["status"] == "failed"
    assert "has no microns per pixel" in line["reason"]
    assert "tiles.slide_mpp=" in line["reason"]
    apply(model, source, tmp_path / "mended", tiles={"slide_mpp": MPP})
    (line,) = table(tmp_path / "mended" / "status.csv")
    assert line["status"] == "done"


def test_a_plain_picture_that_may_be_a_slide_says_what_to_give(model, tmp_path):
    import tifffile

    source = tmp_path / "source"
    source.mkdir()
    tifffile.imwrite(source / "plain.tif", picture(1, has_tumor=True))
    apply(model, source, tmp_path / "out")
    (line,) = table(tmp_path / "out" / "status.csv")
    assert (line["status"], line["code"]) == ("failed", "data")
    assert (
        "the image does not state a pixel size; if it is a slide, give its microns per pixel as tiles.slide_mpp="
        in line["reason"]
    )
    apply(model, source, tmp_path / "mended", tiles={"slide_mpp": MPP})
    assert table(tmp_path / "mended" / "status.csv")[0]["status"] == "done"


def test_unknown_labels_and_failing_slides_are_told_when_learning(place, tmp_path):
    manifest = write_dataset(tmp_path / "dataset", 16, key=tmp_path / "site.key")
    strange = replace(manifest.rows[0], labels={"label": "unsure"})
    replace(manifest, rows=(strange, *manifest.rows[1:])).write()
    broken = tmp_path / "dataset-source" / "i-001.tif"
    broken.write_bytes(broken.read_bytes()[:3000])
    slides = {"key": tmp_path / "site.key"}
    finished = learn(place, tmp_path / "model", dataset=tmp_path / "dataset", slides=slides, seeds=1)
    assert [line.split(":")[0] for line in finished.failures] == ["slide i-000", "slide i-001"]
    assert "expected one of healthy, tumor" in finished.failures[0]


def test_options_of_pixels_are_told_to_be_ignored(place, tmp_path, caplog):
    learn(place, tmp_path / "model", seeds=1, peft={"name": "full"}, crop=[32, 32])
    assert "peft=full is ignored: heads of slides are trained on embeddings" in caplog.text
    assert "crop=(32, 32) is ignored" in caplog.text


def test_cross_validated_heads_learn_from_both_splits(place, tmp_path):
    finished = learn(
        place,
        tmp_path / "model",
        folds=3,
        seeds=1,
        head={"name": "transmil", "width": 16, "landmarks": 8},
    )
    assert (
        "each chose its epoch on one of 3 folds of patients" in (finished.artifact.folder / "model_card.md").read_text()
    )


def test_what_does_not_fit_is_refused(place, model, tmp_path):
    with pytest.raises(CheckpointError, match="is a slide checkpoint; this stage needs backbone"):
        learn(place, tmp_path / "a", checkpoint=model)
    with pytest.raises(ConfigError, match=r"head\.name=dense does not accept bags"):
        learn(place, tmp_path / "b", head={"name": "dense"})
    with pytest.raises(DataError, match=r"at least two classes of 'grade', found none \(labels found: label\)"):
        learn(place, tmp_path / "c", label="grade")
    manifest = Manifest.read(place / "dataset")
    dataset = _without_val(manifest, tmp_path)
    with pytest.raises(DataError, match=r"no rows in the split 'val'"):
        learn(place, tmp_path / "d", dataset=dataset)
    shutil.copytree(place / "dataset" / "tiles", dataset / "tiles")
    learn(place, tmp_path / "e", dataset=dataset, folds=2, seeds=1)


def test_tiles_are_not_embedded_by_a_backbone_of_random_weights(place, tmp_path):
    with pytest.raises(ConfigError, match=r"random weights; give checkpoint=FOLDER .* or backbone.weights"):
        learn(place, tmp_path / "a", checkpoint=None)


def test_a_training_on_slides_is_planned_and_nothing_is_made(place, tmp_path, caplog):
    shutil.copytree(place / "dataset", tmp_path / "dataset", ignore=shutil.ignore_patterns("embeddings"))
    source = tmp_path / "slides"
    shutil.copytree(place / "dataset-source", source)
    (source / "i-000.tif").write_bytes(b"cut")  # then the next where one cannot be read
    options = {"checkpoint": place / "backbone", "output": tmp_path / "model", **QUICK, **OFF}
    slides = {"key": place / "site.key", "folder": source}
    tree = {"dataset": tmp_path / "dataset", "slides": slides, "seeds": 2, "bags": {"tiles": 32}}
    config = FinetunePlanConfig.parse({**tree, **options, "plan": tmp_path / "plan"})
    planned = {name: rest for name, *rest in plan(config).rows}
    assert planned["slides"][0] == "16"
    assert planned["tiles"] == ["1008", "at most 42 on a slide; 0 are embedded already"]
    assert planned["time to train"][1].startswith("2 heads of 30 steps in 2 epochs: 120 slides, ")
    assert planned["disk, embeddings"][0] == _bytes(
        1008 * 24 * 2
    )  # 16 bits of the class token and of the mean, 12 wide
    assert not (tmp_path / "dataset" / "embeddings").exists()
    assert not (tmp_path / "model").exists()
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_plan_counts_embeddings_that_are_there(place, model, tmp_path):
    tree = {"dataset": place / "dataset", "checkpoint": place / "backbone", "output": tmp_path / "model"}
    slides = {"key": place / "site.key"}
    config = FinetunePlanConfig.parse({**tree, "slides": slides, **QUICK, **OFF, "plan": tmp_path / "plan"})
    planned = {name: rest for name, *rest in plan(config).rows}
    assert planned["speed of embedding"][0] == "nothing to do"
    assert planned["time to embed"][0] == "0.0 minutes"


def _without_val(manifest: Manifest, folder: Path) -> Path:
    (folder / "copy").mkdir()
    replace(manifest.filter(lambda row: row.split != "val"), folder=folder / "copy").write()
    return folder / "copy"
