"""The command finds overlaps, writes them, and sets its exit status."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medvit.dataset import quarantine
from pipelines.__main__ import SOME_ITEMS_FAILED, main
from pipelines.datasets.leakage import leakage
from pipelines.ingest import ingest

OFF = {"enabled": False}


def write_images(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(np.random.default_rng(number).integers(0, 255, (8, 8), dtype=np.uint8))
        coarse.resize((64, 64), Image.Resampling.BICUBIC).save(folder / name)
    return folder


def dataset(source: Path, name: str, **options: object) -> Path:
    folder = source.parent / name
    return ingest(source=source, dataset=folder, key=source.parent / "key", tracking=OFF, **options).folder


def test_a_clean_dataset_is_0(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = dataset(write_images(tmp_path / "source", "train/0.png", "test/1.png"), "a")
    assert main(["leakage", f"a={made}", "tracking.enabled=false"]) == 0
    assert "| identical pixels | 0 | 0 | 0 |" in capsys.readouterr().out
    assert (tmp_path / "leakage-1" / "leakage.html").is_file()
    assert main(["leakage", f"a={made}", "tracking.enabled=false"]) == 0
    assert (tmp_path / "leakage-2" / "hits.csv").is_file()


def test_a_copy_across_splits_is_3_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_images(tmp_path / "source", "train/0.png", "test/1.png")
    shutil.copy(source / "train/0.png", source / "test/2.png")
    made = dataset(source, "a", splits={"val": 0})
    words = [f"a={made}", f"output={tmp_path / 'out'}", "tracking.enabled=false"]
    assert main(["leakage", *words]) == SOME_ITEMS_FAILED
    shown = capsys.readouterr()
    assert "| identical pixels | 1 | 1 | 2 |" in shown.out
    assert "2 leaks were found" in shown.err
    assert "identical files: 1 group in test + train" in shown.err


def test_a_dataset_without_copies_has_none(tmp_path: Path) -> None:
    source = write_images(tmp_path / "source", "train/0.png", "test/1.png")
    for name in ("test/2.png", "train/3.png"):
        shutil.copy(source / "train/0.png", source / name)
    words = [f"source={source}", f"dataset={tmp_path / 'a'}", f"key={tmp_path / 'key'}", "tracking.enabled=false"]
    assert main(["ingest", *words, "curation.duplicates=drop"]) == 0
    assert sorted(entry.code for entry in quarantine.read(tmp_path / "a")) == ["leakage", "leakage"]
    assert leakage(a=tmp_path / "a", output=tmp_path / "out", tracking=OFF).overlaps == ()


def test_two_datasets_are_held_against_each_other(tmp_path: Path) -> None:
    a = dataset(write_images(tmp_path / "one", "0.png", "1.png"), "a", splits={"test": 0, "val": 0})
    b = dataset(write_images(tmp_path / "two", "0.png"), "b", splits={"test": 0, "val": 0})
    assert [o.check for o in leakage(a=a, output=tmp_path / "alone", tracking=OFF).overlaps] == []
    finished = leakage.run(leakage.config_type(a=a, b=b, output=tmp_path / "both", tracking=OFF))
    assert {overlap.check for overlap in finished.artifact.overlaps} == {"file", "pixel"}
    assert len(finished.failures) == 2


def test_only_what_is_asked_for_is_looked_for(tmp_path: Path) -> None:
    source = write_images(tmp_path / "source", "train/0.png")
    shutil.copy(source / "train/0.png", source / "train/1.png")
    found = leakage(a=dataset(source, "a"), output=tmp_path / "out", checks=["file"], tracking=OFF)
    assert {overlap.check for overlap in found.overlaps} == {"file"}


class TestRealData:
    """On the real data sets, if present next to the project."""

    def test_brain_tumor_slices(self, shared_data: Path, tmp_path: Path) -> None:
        """The class with most of the groups that cross."""
        source = tmp_path / "source"
        for part in ("Training", "Testing"):
            shutil.copytree(shared_data / "brain-tumor-mri-2d" / part / "no_tumor", source / part / "no_tumor")
        kept = dataset(source, "kept", labeling={"from_folders": "folder"}, splits={"val": 0})
        overlaps = leakage(a=kept, output=tmp_path / "out", tracking=OFF).overlaps

        def count(check: str) -> tuple[int, int]:
            found = [overlap for overlap in overlaps if overlap.check == check]
            return len(found), sum(overlap.crosses for overlap in found)

        assert count("file") == (27, 21)
        assert count("pixel") == (27, 21)
        assert count("perceptual") == (4, 2)  # shifted, cropped, or neighboring slices of one head
