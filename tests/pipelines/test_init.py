"""From a folder to configurations: files of init run unchanged; init overwrites and reveals nothing."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Callable
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture

from medvit.config import read_yaml
from medvit.dataset.manifest import Manifest
from pipelines.__main__ import FAILED, SOME_ITEMS_FAILED, WRONG_ARGUMENTS, find, main
from pipelines.init import InitConfig, WrittenProject, init

Write = Callable[..., Path]


def run(source: Path, output: Path, *words: str) -> int:
    return main(["init", f"source={source}", f"output={output}", "device=cpu", *words])


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) & 0o077 for path in folder.iterdir()}


@pytest.fixture
def classes(write_png: Write) -> Path:
    """Two folders that look like classes."""
    for n in range(24):
        path = write_png(f"{('benign', 'malignant')[n % 2]}/{n}.png", n)
    return path.parents[1]


def test_ingest_runs_with_the_written_file_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # where the key of the site is made
    monkeypatch.chdir(tmp_path)
    for n, (name, top) in product(range(6), {"images": 1000, "labels": 3}.items()):
        voxels = np.random.default_rng(n).integers(0, top, (7, 6, 5), dtype=np.int16)
        path = tmp_path / "source" / name / f"{n}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
    assert main(["init", "source=source", "output=project", "modality=CT", "device=cpu"]) == 0
    before = (tmp_path / "project" / "ingest.yaml").read_bytes()
    assert main(["ingest", "project/ingest.yaml", "tracking.enabled=false"]) == 0
    assert (tmp_path / "project" / "ingest.yaml").read_bytes() == before
    made = Manifest.read(Path("project/dataset"))
    assert {row.split for row in made} == {"train", "val", "test"}
    assert all(row.mask and row.modality == "CT" for row in made)


def test_every_written_file_is_one_of_its_stage_and_named_by_a_command(
    classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "a project"
    assert run(classes, output) == 0
    shown = capsys.readouterr().out
    for path in sorted(output.iterdir()):
        inputs = ["source=new"] if path.stem == "predict" else []
        find(path.stem).config_type.load(path, inputs)
        assert f"  medvit {path.stem} '{path}'{' source=NEW_STUDIES' if inputs else ''}\n" in shown
    stages = [line.split()[1] for line in shown.splitlines() if line.startswith("  medvit ")]
    assert stages == ["ingest", "pretrain", "finetune", "evaluate", "predict"]


def test_only_the_owner_reads_where_the_source_is_and_the_screen_does_not_say_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write_series: Callable[..., object]
) -> None:
    source = tmp_path
    write_series(StudyDescription="Lindqvist")
    output = tmp_path.with_name(f"{tmp_path.name}-project")
    assert run(source, output) == 0
    assert read_yaml(output / "ingest.yaml")["source"] == str(source)
    assert modes(output)["ingest.yaml"] == 0
    public = "".join(path.read_text(encoding="utf-8") for path in output.glob("p*.yaml"))
    streams = capsys.readouterr()
    for secret in ("SECRET", "Secret", "1.2.3.4", "thin axial", "Lindqvist", "001.dcm"):
        assert secret not in public + (output / "ingest.yaml").read_text(encoding="utf-8") + streams.out + streams.err
    assert f"{source}\n" not in public


def test_existing_files_are_not_overwritten(classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "project"
    output.mkdir()
    (output / "evaluate.yaml").write_text("mine: 1\n")
    assert run(classes, output) == FAILED
    assert "evaluate.yaml already" in capsys.readouterr().err
    assert {path.name: path.read_text() for path in output.iterdir()} == {"evaluate.yaml": "mine: 1\n"}


def test_a_source_without_an_image_ends_with_status_3_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "letter.txt").write_text("Dear Mr Lindqvist")
    assert run(tmp_path / "source", tmp_path / "project") == SOME_ITEMS_FAILED
    assert not (tmp_path / "project").exists()


def test_a_source_of_which_most_would_be_refused_ends_with_status_3(write_png: Write, tmp_path: Path) -> None:
    source = write_png("good.png").parent
    for n in range(2):
        (source / f"{n}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert run(source, tmp_path / "project") == SOME_ITEMS_FAILED
    assert (tmp_path / "project" / "ingest.yaml").is_file()


@pytest.mark.parametrize(("lines", "status"), [("file,finding", 0), ("name,finding", SOME_ITEMS_FAILED)])
def test_a_table_that_was_given_is_used_or_reported(classes: Path, tmp_path: Path, lines: str, status: int) -> None:
    table = tmp_path / "table"
    named = "".join(f"\nbenign/{n}.png,{'ab'[n // 2 % 2]}" for n in range(0, 24, 2))
    table.write_text(lines + (named if status == 0 else "\nLindqvist,a\nOlofsson,b"))
    assert run(classes, tmp_path / "project", f"labels={table}") == status
    tree = read_yaml(tmp_path / "project" / "ingest.yaml")
    assert tree.get("labels") == (str(table) if status == 0 else None)
    assert str(table) in (tmp_path / "project" / "ingest.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("source", ["https://archive.example/dicom-web", "."])
def test_a_server_and_an_output_within_the_source_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", f"source={source}", "output=project"]) == WRONG_ARGUMENTS
    assert not list(tmp_path.iterdir())


def test_what_an_archive_held_does_not_stay(classes: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        for path in sorted(classes.rglob("*.png")):
            archive.write(path, path.relative_to(classes))
    assert run(tmp_path / "export.zip", tmp_path / "project") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"source", "export.zip", "project"}
    assert read_yaml(tmp_path / "project" / "ingest.yaml")["label_from"] == "folder"


REAL = {
    "brain-mr-dicom-studies": ({("volume", "MR"): 6}, ""),
    "busi-ultrasound": ({("image", ""): 340}, "classification"),
    "msd-hippocampus": ({("volume", ""): 200}, "segmentation"),
    "drive": ({("image", ""): 30}, "segmentation"),
    "brain-tumor-mri-2d": ({("image", ""): 413}, "classification"),
    "totalseg-ct": ({("volume", ""): 6, ("volume", "CT"): 1}, ""),
    "wsi": ({("slide", "SM"): 1, ("image", ""): 13}, ""),
    "bbbc038-nuclei": ({("image", ""): 120}, "segmentation"),
}
"""Real data sets, their contents, and their task."""


def test_fields_of_view_beside_label_maps_are_offered(tmp_path: Path) -> None:
    for folder in ("images", "labels", "mask"):
        (tmp_path / "source" / folder).mkdir(parents=True)
        for number in range(3):
            pixels = np.full((4, 4), 60 * number, np.uint8)
            Picture.fromarray(pixels).save(tmp_path / "source" / folder / f"{number}.png")
    made = init.run(InitConfig.parse({"source": tmp_path / "source", "output": tmp_path / "project", "device": "cpu"}))
    text = (tmp_path / "project" / "ingest.yaml").read_text(encoding="utf-8")
    assert made.artifact.survey.num_masks == 3
    assert "3 files are in folders named mask" in " ".join(text.replace("#", " ").split())
    assert "field_of_view_folder: [mask]" in text


@pytest.mark.parametrize("name", REAL)
def test_real_data_are_counted_and_drafted_for_their_task(name: str, shared_data: Path, tmp_path: Path) -> None:
    if not (shared_data / name).is_dir():
        pytest.skip(f"the data set {name} does not lie beside the project (../shared/data)")
    expected, task = REAL[name]
    made: WrittenProject = init.run(
        InitConfig.parse({"source": shared_data / name, "output": tmp_path / "project", "device": "cpu"})
    ).artifact
    assert {(group.kind, group.modality): len(group.candidates) for group in made.survey.groups} == expected
    heads = {"classification": "linear", "segmentation": "dense"}
    finetune = tmp_path / "project" / "finetune.yaml"
    assert finetune.is_file() == bool(task)
    if task:
        assert find("finetune").config_type.load(finetune).head.name == heads[task]
