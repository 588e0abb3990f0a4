"""From a folder to a dataset: the laws of the stage."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from PIL import Image
from pydicom import dcmread

from medvit import phantoms
from medvit.dataset import quarantine
from medvit.dataset.manifest import Manifest
from medvit.dataset.samples import load
from medvit.errors import DataError, OutputError
from medvit.records import IGNORED
from pipelines.__main__ import SOME_ITEMS_FAILED, main
from pipelines.ingest import IngestConfig, ingest
from tests.plugins.tracking_template import MakeStore
from tests.processes.forked import forked_command

NUM_PAIRS = 12


def config(source: Path, dataset: Path, **options: object) -> IngestConfig:
    # One name and one key for all datasets of a test, so that equal sources give equal datasets.
    key = dataset.parent / "site.key"
    defaults = {"source": source, "dataset": dataset, "name": "test", "key": key, "tracking": {"enabled": False}}
    return IngestConfig.parse({**defaults, **options})


def write_pairs(folder: Path, num_pairs: int = NUM_PAIRS) -> Path:
    for number in range(num_pairs):
        rng = np.random.default_rng(number)
        for name, voxels in (
            ("images", rng.integers(0, 1000, (7, 6, 5), dtype=np.int16)),
            ("labels", rng.integers(0, 3, (7, 6, 5), dtype=np.uint8)),
        ):
            (folder / name).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 1.5, 2.0, 1.0])), folder / name / f"x{number:02d}.nii.gz")
    return folder


def write_classes(folder: Path, num_images: int = 4) -> Path:
    for number, label in enumerate(("benign", "malignant")):
        (folder / label).mkdir(parents=True)
        for n in range(num_images):
            pixels = np.random.default_rng([number, n]).integers(0, 255, (6, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{n}.png")
    return folder


def recorded(manifest: Manifest) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load((manifest.folder / "config.yaml").read_text(encoding="utf-8"))
    return tree


def contents(dataset: Path) -> dict[str, bytes]:
    """The bytes of all files except those about the run."""
    files = [
        p for p in dataset.rglob("*") if p.is_file() and p.name not in ("config.yaml", "lineage.json", "medvit.log")
    ]
    return {p.relative_to(dataset).as_posix(): p.read_bytes() for p in files}


def test_pixels_labels_and_places_come_back_as_they_were(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "source")
    labeling = {"mask_classes": ["background", "a", "b"]}
    manifest = ingest(config(source, tmp_path / "out", labeling=labeling, scanning={"modality": "MR"}))
    assert manifest.folder == tmp_path / "out"
    assert Manifest.read(tmp_path / "out").hash == manifest.hash
    assert manifest.facts.mask_classes == ("background", "a", "b")
    expected = {
        nib.load(file).get_fdata().tobytes(): np.asarray(nib.load(source / "labels" / file.name).dataobj)
        for file in (source / "images").iterdir()
    }
    assert len(manifest) == NUM_PAIRS
    for row in manifest:
        image = load(manifest, row)
        assert (row.modality, row.spacing_mm, image.pixels.dtype) == ("MR", (1.0, 1.5, 2.0), np.int16)
        np.testing.assert_array_equal(image.mask, expected[image.pixels[0].astype(np.float64).tobytes()])


def test_folders_may_be_named_after_people_so_unasked_they_are_no_labels(tmp_path: Path) -> None:
    manifest = ingest(config(write_classes(tmp_path / "source"), tmp_path / "out"))
    assert manifest.facts.classes == {}
    assert all(not row.labels for row in manifest)


def test_folders_of_classes_become_labels(tmp_path: Path) -> None:
    manifest = ingest(config(write_classes(tmp_path / "source"), tmp_path / "out", labeling={"from_folders": "auto"}))
    assert recorded(manifest)["labeling"]["from_folders"] == "folder", "what auto came to"
    assert manifest.facts.classes == {"label": ("benign", "malignant")}
    assert sorted(row.labels["label"] for row in manifest) == ["benign"] * 4 + ["malignant"] * 4


def test_the_dataset_does_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "source", 5)
    (source / "broken.nii.gz").write_bytes(b"\x1f\x8b broken")
    ingest(config(source, tmp_path / "one"))
    ingest(config(source, tmp_path / "two", engine={"num_processes": 2}))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_run_killed_halfway_goes_on_to_the_identical_dataset(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "source", 150)
    ingest(config(source, tmp_path / "whole"))
    partial = tmp_path / "killed.partial"
    words = [f"source={source}", f"dataset={tmp_path / 'killed'}", f"key={tmp_path / 'site.key'}", "name=test"]
    with forked_command("ingest", *words, "tracking.enabled=false") as process:
        deadline = time.monotonic() + 60
        while sum(1 for _ in partial.glob("images/*/[!.]*")) < 20 and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send(signal.SIGKILL)
    assert process.status == -signal.SIGKILL
    num_done = len((partial / "taken.jsonl").read_bytes().splitlines())
    assert 0 < num_done < 150
    with (partial / "taken.jsonl").open("ab") as file:
        file.write(b'{"state": "torn')
    (next((partial / "images").iterdir()) / ".orphan.1.b2nd").write_bytes(b"half")

    assert main(["ingest", *words, "tracking.enabled=false", "resume=true"]) == 0

    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert not partial.exists()


def test_adding_patients_moves_nobody(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "source", 10)
    before = {row.image_id: row.split for row in ingest(config(source, tmp_path / "before"))}
    write_pairs(source, 40)
    after = {row.image_id: row.split for row in ingest(config(source, tmp_path / "after"))}
    assert before.items() <= after.items()
    assert set(after.values()) == {"train", "val", "test"}


def test_no_patient_is_in_two_splits(tmp_path: Path) -> None:
    source = write_classes(tmp_path / "source", num_images=30)
    manifest = ingest(config(source, tmp_path / "out", scanning={"patient_from": r"/(\d+)\.png"}))
    splits: dict[str, set[str]] = {}
    for row in manifest:
        splits.setdefault(row.patient_id, set()).add(row.split)
    assert len(splits) == 30
    assert all(len(found) == 1 for found in splits.values())


PLANTED = ("Zebedee", "QX7731", "19630412", "Grantham")


def write_identified_studies(folder: Path) -> Path:
    """A DICOM series and a broken file that name the patient in every possible place."""
    phantoms.write_ct_studies(folder / "Zebedee_QX7731", 1)
    for file in folder.rglob("*.dcm"):
        dataset = dcmread(file)
        dataset.PatientName, dataset.PatientID = "Zebedee^Quentin", "QX7731"
        dataset.PatientBirthDate = dataset.StudyDate = "19630412"
        dataset.InstitutionName = dataset.StudyDescription = dataset.SeriesDescription = "Grantham"
        dataset.AccessionNumber = dataset.StudyID = "QX7731"
        dataset.save_as(file)
    truncated = folder / "Zebedee_QX7731" / "19630412-Grantham.dcm"
    truncated.write_bytes(file.read_bytes()[:2000])
    (folder / "Zebedee.png").write_bytes(b"\x89PNG\r\n\x1a\n QX7731")
    (folder / "Zebedee.txt").write_text("QX7731")
    return folder


def test_nothing_that_names_a_patient_is_left_behind(
    tmp_path: Path, make_store: MakeStore, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    source = write_identified_studies(tmp_path / "Grantham")
    uid = str(dcmread(next(source.rglob("IM*.dcm"))).StudyInstanceUID)
    finished = ingest.run(config(source, tmp_path / "out", tracking={"uri": make_store(tmp_path)}))
    rows = [str(row) for row in Manifest.read(tmp_path / "out").rows]
    entries = [str(entry) for entry in quarantine.read(tmp_path / "out")]
    printed = [*finished.failures, *capfd.readouterr(), caplog.text, *map(repr, Manifest.read(tmp_path / "out").rows)]
    files = [p for folder in ("out", "mlartifacts") for p in (tmp_path / folder).rglob("*") if p.is_file()]
    files.append(tmp_path / "mlflow.db")
    for word in (*PLANTED, uid):
        assert not any(word in text for text in [*rows, *entries, *printed])
        assert [p.name for p in files if word.encode() in p.read_bytes() or word in p.name] == []
    assert len(rows) >= 1
    assert len(entries) >= 3
    way_back = (tmp_path / "site.key.crosswalk" / "test.csv").read_text(encoding="utf-8")
    assert all(entry.where in way_back for entry in quarantine.read(tmp_path / "out"))
    assert all(row.study_id in way_back and row.series_id in way_back for row in Manifest.read(tmp_path / "out"))


def test_what_fails_is_listed_and_the_rest_is_taken(tmp_path: Path) -> None:
    source = write_classes(tmp_path / "source")
    (source / "notes.txt").write_text("no image")
    broken = source / "benign" / "broken.png"
    broken.write_bytes((source / "benign" / "0.png").read_bytes()[:60])
    words = [f"source={source}", f"dataset={tmp_path / 'out'}", f"key={tmp_path / 'k'}", "tracking.enabled=false"]
    assert main(["ingest", *words]) == SOME_ITEMS_FAILED
    assert len(Manifest.read(tmp_path / "out")) == 8
    assert sorted(entry.code for entry in quarantine.read(tmp_path / "out")) == ["not_an_image", "unreadable"]


def test_a_file_that_is_no_image_is_no_failure(tmp_path: Path) -> None:
    source = write_classes(tmp_path / "source")
    (source / "notes.txt").write_text("no image")
    assert ingest.run(config(source, tmp_path / "out")).failures == ()


def test_a_source_without_any_image_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "notes.txt").write_text("no image")
    for number in range(2):
        (source / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    reasons = r"among 3 files \(2 unreadable, 1 not_an_image\); most often: [^;]* \(2\); [^;]* \(1\); expected DICOM"
    with pytest.raises(DataError, match=reasons):
        ingest(config(source, tmp_path / "out"))
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("make", [Path.mkdir, lambda folder: None], ids=["empty", "missing"])
def test_a_source_that_is_empty_or_missing_is_refused_and_leaves_nothing(tmp_path: Path, make) -> None:
    make(tmp_path / "source")
    with pytest.raises(DataError, match="give source=PATH"):
        ingest(config(tmp_path / "source", tmp_path / "out"))
    assert not list(tmp_path.glob("out*"))


def test_labels_of_unknown_files_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    source = write_classes(tmp_path / "source")
    (tmp_path / "labels.csv").write_text("file,grade\nbenign/0.png,1\nbenign/77.png,2\n")
    with pytest.raises(DataError, match=r"1 of the 2 lines .* \(line 3\)"):
        ingest(config(source, tmp_path / "out", labeling={"table": tmp_path / "labels.csv"}))
    assert not list(tmp_path.glob("out*"))


def test_labels_come_from_a_table(tmp_path: Path) -> None:
    source = write_classes(tmp_path / "source")
    (tmp_path / "labels.csv").write_text("file,grade,split\nbenign/0.png,10,test\nmalignant/1.png,9,train\n")
    manifest = ingest(config(source, tmp_path / "out", labeling={"table": tmp_path / "labels.csv"}))
    assert manifest.facts.classes == {"grade": ("9", "10")}
    labeling = recorded(manifest)["labeling"]
    assert (labeling["from_folders"], labeling["columns"]) == ("off", ["grade"])
    assert {row.split for row in manifest if row.labels.get("grade") == "10"} == {"test"}


def test_a_disk_that_cannot_be_written_stops_the_run_and_leaves_no_dataset(tmp_path: Path) -> None:
    source = write_classes(tmp_path / "source")
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "images").symlink_to("nowhere")
    with pytest.raises(OutputError, match="cannot store"):
        ingest(config(source, tmp_path / "out", resume=True))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("scanning.patient_from=(a", "expected a regular expression"),
        ("scanning.patient_from=abc", "expected a regular expression with one group"),
        ("splits.test=0.95", "patients remain for training"),
        ("name=../up", "name: "),
        ("labels_from=folder", "did you mean 'labeling.from_folders'"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, message: str
) -> None:
    assert main(["ingest", f"source={tmp_path}", f"dataset={tmp_path / 'out'}", key]) == 2
    assert message in capsys.readouterr().err


class TestRealData:
    """On the real data sets, if present next to the project."""

    def test_hippocampus(self, shared_data: Path, tmp_path: Path) -> None:
        source = tmp_path / "source"
        for folder in ("images", "labels"):
            (source / folder).mkdir(parents=True)
            for path in sorted((shared_data / "msd-hippocampus" / folder).iterdir())[::4]:
                (source / folder / path.name).symlink_to(path)
        manifest = ingest(config(source, tmp_path / "out", scanning={"modality": "MR"}))
        assert len(manifest) == len({row.patient_id for row in manifest}) == 50
        assert all(row.mask for row in manifest)
        assert manifest.facts.mask_classes == ("background", "class 1", "class 2")
        assert len(manifest.split("test")) >= 10

    @pytest.mark.parametrize(("name", "counts"), [("retinamnist", (108, 12, 40)), ("adrenalmnist3d", (119, 10, 30))])
    def test_official_splits_of_medmnist(
        self, shared_data: Path, tmp_path: Path, name: str, counts: tuple[int, int, int]
    ) -> None:
        with np.load(shared_data / "medmnist" / f"{name}.npz") as arrays:  # every tenth image of each split
            np.savez(tmp_path / f"{name}.npz", **{key: arrays[key][::10] for key in arrays.files})
        manifest = ingest(config(tmp_path / f"{name}.npz", tmp_path / "out"))
        assert tuple(len(manifest.split(split)) for split in ("train", "val", "test")) == counts

    def test_brain_studies(self, shared_data: Path, tmp_path: Path) -> None:
        manifest = ingest(config(shared_data / "brain-mr-dicom-studies", tmp_path / "out"))
        assert (len(manifest), len({row.patient_id for row in manifest})) == (6, 2)
        assert {row.modality for row in manifest} == {"MR"}

    def test_a_folder_of_everything(self, shared_data: Path, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.mkdir()
        for name in ("dicom-odd", "torchio-ct-series", "wsi", "dcm_qa_ct"):
            for file in (p for p in (shared_data / name).rglob("*") if p.is_file()):
                link = source / file.relative_to(shared_data)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(file)
        finished = ingest.run(config(source, tmp_path / "out"))
        codes = {entry.code for entry in quarantine.read(tmp_path / "out")}
        assert {"not_an_image", "unreadable"} <= codes
        assert finished.failures
        assert {row.kind for row in finished.artifact} == {"image", "slide", "volume"}


def test_pixels_outside_the_field_of_view_are_ignored(tmp_path: Path) -> None:
    source, labels, field = tmp_path / "source", np.zeros((6, 8), np.uint8), np.zeros((6, 8), np.uint8)
    labels[2:4, 2:4], field[1:5, 1:7] = 255, 255
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (6, 8), dtype=np.uint8)
        wrong = np.zeros((6, 7 + bool(number)), np.uint8)
        wrong[: len(field), :7] = field[:, :7]
        for folder, values in (("images", pixels), ("labels", labels), ("mask", wrong)):
            (source / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(source / folder / f"{number}.png")
    scanning = {"field_of_view_folder": ["mask"]}
    manifest = ingest(
        config(source, tmp_path / "out", scanning=scanning, labeling={"mask_classes": ["none", "lesion"]})
    )
    assert manifest.facts.mask_classes == ("none", "lesion")
    for row in manifest:
        assert np.array_equal(manifest.store.get(row.mask), np.where(field, labels // 255, IGNORED))
    (refused,) = quarantine.read(manifest.folder)
    assert "the field of view has shape (6, 7), its image (6, 8)" in refused.reason

    Image.fromarray(np.full_like(field, 255)).save(source / "mask" / "1.png")
    updated = ingest(config(source, tmp_path / "updated", scanning=scanning, update=manifest.folder))
    assert sum(bool((updated.store.get(row.mask) == IGNORED).any()) for row in updated) == 2


def write_parts(folder: Path) -> Path:
    """Write images of two sites; the label maps of the first lack the second class."""
    for number, site in enumerate(("a", "b", "b")):
        labels = np.zeros((6, 8), np.uint8)
        labels[1, 1:3], labels[4, 4:6] = 1, 2 * (site == "b")
        pixels = np.random.default_rng(number).integers(0, 255, (6, 8), dtype=np.uint8)
        for kind, values in (("images", pixels), ("labels", labels)):
            (folder / site / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(folder / site / kind / f"{number}.png")
    return folder


CLASSES = {"mask_classes": ["background", "liver", "spleen"]}


def test_the_manifest_records_the_annotated_classes_of_a_folder(tmp_path: Path) -> None:
    source = write_parts(tmp_path / "source")
    annotated = {"A": ["liver"], "b": ["spleen", "liver"]}
    manifest = ingest(config(source, tmp_path / "out", labeling={**CLASSES, "annotated": annotated}))
    assert manifest.hash == Manifest.read(tmp_path / "out").hash
    found = {row.annotated: int(manifest.store.get(row.mask).max()) for row in Manifest.read(tmp_path / "out")}
    assert found == {("liver",): 1, None: 2}
    assert "| 2 | spleen | 4.167% | 2 |" in (tmp_path / "out" / "card.md").read_text(encoding="utf-8")
    full = ingest(config(source, tmp_path / "full", labeling=CLASSES))
    same = ingest(config(source, tmp_path / "same", labeling={**CLASSES, "annotated": {"b": ["liver", "spleen"]}}))
    assert same.hash == full.hash != manifest.hash


def test_a_table_gives_the_annotated_classes_of_each_image(tmp_path: Path) -> None:
    source, table = write_parts(tmp_path / "source"), tmp_path / "table.csv"
    table.write_text("file,organs\n0,liver\n1,liver;spleen\n", encoding="utf-8")
    labeling = {**CLASSES, "table": table, "annotated_column": "organs"}
    manifest = ingest(config(source, tmp_path / "out", labeling=labeling))
    assert sorted((row.annotated or ()) for row in manifest) == [(), (), ("liver",)]
    assert not manifest.facts.classes


def test_a_label_map_with_a_class_that_is_not_annotated_is_refused(tmp_path: Path) -> None:
    source = write_parts(tmp_path / "source")
    manifest = ingest(config(source, tmp_path / "out", labeling={**CLASSES, "annotated": {"b": ["liver"]}}))
    assert [row.annotated for row in manifest] == [None]
    reasons = {one.reason for one in quarantine.read(manifest.folder)}
    assert reasons == {
        "the label map contains the class spleen, but its annotated classes are liver; correct labeling.annotated or "
        "the label map"
    }


@pytest.mark.parametrize(
    ("labeling", "message"),
    [
        ({"annotated": {"a": ["liver"]}}, "annotated classes need names; give mask_classes as well"),
        ({**CLASSES, "annotated": {"a": ["lung"]}}, "annotated names 'lung'; expected foreground classes"),
        ({**CLASSES, "annotated": {"a": []}}, "annotated names no class for the folder 'a'"),
        ({**CLASSES, "annotated": {"a": ["background"]}}, "annotated names 'background'"),
        ({**CLASSES, "annotated_column": "organs"}, "give table as well"),
        ({**CLASSES, "annotated": {"c": ["liver"]}}, "names the folder 'c', but no image of the source is in it"),
    ],
)
def test_annotated_classes_that_make_no_sense_are_refused(
    tmp_path: Path, labeling: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ingest(config(write_parts(tmp_path / "source"), tmp_path / "out", labeling=labeling))
