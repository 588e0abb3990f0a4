"""Artifacts of earlier versions open: those of `tests/fixtures`, which `tests/fixtures/make.py` made, must not change.
They represent files at sites: layouts of folders, columns, names of weights, stored options, states of files. If one of
these tests fails, the code must learn to read the old artifact; regenerating it would hide the incompatibility.
"""

from __future__ import annotations

import csv
import json
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
from safetensors.torch import load_file

from medvit.artifacts import Checkpoint, Lineage
from medvit.dataset import quarantine
from medvit.dataset.manifest import Manifest
from medvit.dataset.samples import load
from medvit.dataset.store import content_address
from medvit.evaluation.report.page import read_table
from medvit.phantoms import CT_CLASSES
from medvit.records import Row
from pipelines.evaluate import evaluate
from pipelines.finetune import finetune
from pipelines.ingest import ingest
from pipelines.predict import predict
from pipelines.pretrain import pretrain
from tests.fixtures import make

MADE = Path(__file__).parent / "fixtures" / "2026-11"
OUTPUT_TOLERANCE = 1e-3
"""Absolute, of features and logits up to about 10: kernels of another CPU or torch add float32 in another order."""
DICE_TOLERANCE = 0.01
"""Absolute: of an organ of some 40 voxels, one on its border may then change its class."""
TRAINER = {"epochs": 1, "steps_per_epoch": 2, "precision": "32-true"}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the artifacts, with the source and the new studies that they were made of."""
    folder = tmp_path_factory.mktemp("old") / "site"
    shutil.copytree(MADE, folder)
    (folder / "site.key").chmod(0o600)  # Git keeps no more of a mode than whether a file can be executed
    make.draw(folder)
    return folder


@pytest.fixture
def site(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same as the working directory: stored options have paths relative to it."""
    monkeypatch.chdir(drawn)
    return drawn


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(encoding="utf-8", newline="")))


def metrics_of(report: Path) -> dict[str, dict[str, float]]:
    return json.loads((report / "metrics.json").read_text(encoding="utf-8"))["metrics"]


def is_same(one: Path, other: Path) -> bool:
    """Whether two checkpoints have the same weights, and the same kind of model."""
    first, second = Checkpoint.load(one), Checkpoint.load(other)
    same_keys = first.state.keys() == second.state.keys()
    return first.kind == second.kind and same_keys and all(first.state[k].equal(second.state[k]) for k in first.state)


def test_an_old_manifest_opens_with_its_facts_labels_and_quarantine() -> None:
    manifest = Manifest.read(MADE / "dataset")
    assert [sum(row.split == name for row in manifest) for name in ("train", "val", "test")] == [4, 2, 3]
    assert manifest.facts.mask_classes == CT_CLASSES
    assert manifest.facts.classes == {"phase": make.PHASES}
    assert {row.labels["phase"] for row in manifest} == set(make.PHASES)
    assert [(entry.code, entry.num_files) for entry in quarantine.read(MADE / "dataset")] == [("geometry", 15)]


def test_an_old_dataset_keeps_its_hash_which_checkpoints_and_reports_name() -> None:
    digest = Manifest.read(MADE / "dataset").hash
    for name in ("checkpoint_pretrained", "checkpoint", "report"):
        lineage = Lineage.read(MADE / name)
        assert lineage is not None
        assert lineage.inputs["dataset"] == digest


def test_all_pixels_and_label_maps_of_an_old_dataset_load_and_have_their_content_addresses() -> None:
    manifest = Manifest.read(MADE / "dataset")
    for row in manifest:
        image = load(manifest, row)
        assert content_address(image.pixels) == row.sha256
        assert image.pixels.shape == row.shape == (1, 24, 24, 16)
        if row.mask is not None:
            assert content_address(manifest.store.get(row.mask)) == row.mask
            assert image.mask is not None
            assert set(np.unique(image.mask)) == set(range(len(CT_CLASSES)))
    assert sum(row.mask is not None for row in manifest) == len(make.SPLITS)


def test_the_model_of_an_old_checkpoint_predicts_what_it_predicted() -> None:
    with np.load(MADE / "expected.npz") as expected:
        found = make.outputs(MADE)
        np.testing.assert_allclose(found["tokens"], expected["tokens"], rtol=0, atol=OUTPUT_TOLERANCE)
        np.testing.assert_allclose(found["logits"], expected["logits"], rtol=0, atol=OUTPUT_TOLERANCE)
        assert np.mean(found["mask"] == expected["mask"]) > 0.999, "share of voxels"


def test_old_checkpoints_keep_the_hash_that_later_artifacts_name() -> None:
    for name, later in (
        ("checkpoint_pretrained", "checkpoint"),
        ("checkpoint", "report"),
        ("checkpoint", "predictions"),
    ):
        lineage = Lineage.read(MADE / later)
        assert lineage is not None
        assert lineage.inputs["checkpoint"] == Checkpoint.load(MADE / name).hash


def test_evaluating_an_old_checkpoint_repeats_the_old_report_and_compares_with_it(site: Path) -> None:
    made = evaluate(output="again", against="report", **make.EVALUATE).folder
    old, new = metrics_of(site / "report"), metrics_of(made)
    assert old.keys() <= new.keys()
    later = {name.partition(".")[0] for name in new.keys() - old.keys()}  # metrics that the old version did not have
    assert all(name.endswith("_pooled") or name.startswith(("lesion_", "false_", "volume_error")) for name in later)
    for name in (name for name in old if name.startswith("dice")):
        assert new[name]["value"] == pytest.approx(old[name]["value"], abs=DICE_TOLERANCE)
    differences = json.loads((made / "metrics.json").read_text(encoding="utf-8"))["differences"]
    assert differences["dice"]["value"] == pytest.approx(0.0, abs=DICE_TOLERANCE)


def test_the_table_of_an_old_report_reads_and_names_images_of_the_test_split() -> None:
    columns = read_table(MADE / "report")
    rows = Manifest.read(MADE / "dataset").split("test")
    assert set(columns["image_id"]) == {row.image_id for row in rows}
    assert set(columns["patient_id"]) == {row.patient_id for row in rows}
    assert np.mean(columns["dice"]) == pytest.approx(metrics_of(MADE / "report")["dice"]["value"], abs=1e-6)


def test_training_starts_from_an_old_pretrained_checkpoint(site: Path) -> None:
    shared: dict[str, Any] = {
        "dataset": "dataset",
        "checkpoint": "checkpoint_pretrained",
        "peft": "continue",
        "trainer": TRAINER,
        "loader": {"batch_size": 2},
        **make.OFF,
    }
    objective = {"name": "mae", "decoder_width": 24, "decoder_depth": 1, "decoder_heads": 2}
    further = pretrain(output="pretrained_further", objective=objective, guard="off", **shared).folder
    assert not is_same(further, site / "checkpoint_pretrained")
    head = {"name": "dense", "channels": 4, "num_depths": 2}
    tuned = finetune(output="tuned", head=head, **shared).folder
    adapters = [load_file(folder / "adapter.safetensors") for folder in (site / "checkpoint", tuned)]
    assert {k: v.shape for k, v in adapters[0].items()} == {k: v.shape for k, v in adapters[1].items()}
    assert (tuned / "patients.txt").read_text() == (site / "checkpoint" / "patients.txt").read_text()


def test_old_predictions_read_and_their_seg_holds_the_mask_of_their_nifti() -> None:
    done, failed = sorted(table(MADE / "predictions" / "status.csv"), key=lambda line: line["status"])
    assert (done["status"], failed["status"], failed["code"]) == ("done", "failed", "geometry")
    folder = MADE / "predictions" / done["study"]
    mask = np.asarray(nib.load(folder / "mask.nii.gz").dataobj)
    seg = hd.seg.segread(folder / "segmentation.dcm")
    segments = {seg.get_segment_description(n).segment_label: n for n in seg.segment_numbers}
    voxels = seg.get_volume(combine_segments=True, relabel=False).array
    counts = {row["class"]: int(row["num_voxels"]) for row in table(MADE / "predictions" / "predictions.csv")}
    assert counts.keys() == set(CT_CLASSES[1:])
    for name, count in counts.items():
        assert np.count_nonzero(mask == CT_CLASSES.index(name)) == count
        assert np.count_nonzero(voxels == segments.get(name, -1)) == count


def test_an_old_batch_of_predictions_is_continued_where_it_was(site: Path) -> None:
    shutil.copytree(site / "predictions", site / "continued.partial")
    options = site / "continued.partial" / "config.yaml"
    options.write_text(options.read_text(encoding="utf-8").replace("output: predictions", "output: continued"))
    made = predict(output="continued", resume=True, **make.PREDICT)
    assert (made.num_done, made.num_failed) == (1, 1)
    (done,) = (line for line in table(site / "predictions" / "status.csv") if line["status"] == "done")
    assert done in table(made.folder / "status.csv"), "the study is not predicted again"
    seg = Path(done["study"]) / "segmentation.dcm"
    assert (made.folder / seg).read_bytes() == (site / "predictions" / seg).read_bytes()


def test_an_old_dataset_is_updated_from_the_same_source(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="medvit"):
        updated = ingest(dataset="updated", update="dataset", **make.INGEST)
    # Other versions of NumPy, nibabel or pydicom may write the same pixels as other bytes, which are then read again.
    assert re.search(r"dataset was made: 0 added, \d+ changed, 0 removed, \d+ unchanged", caplog.text)

    def comparable(row: Row) -> Row:
        known = {name: text for name, text in row.attributes.items() if name not in ("site", "period")}
        return replace(row, file_sha256=None, patient_is_assumed=None, attributes=known)  # not recorded then

    assert [comparable(row) for row in updated] == [comparable(row) for row in Manifest.read(site / "dataset")]
