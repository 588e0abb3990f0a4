from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture

from medvit.dataset.manifest import Manifest
from medvit.dataset.store import Store
from medvit.errors import OutputError
from pipelines.__main__ import SOME_ITEMS_FAILED, main
from pipelines.datasets.export import ExportConfig, export
from pipelines.ingest import ingest

QUIET = {"tracking": {"enabled": False}}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two volumes with label maps and one picture."""
    for name, folder in (("images", "imagesTr"), ("labels", "labelsTr")):
        for n in range(2):
            path = tmp_path / "source" / folder / f"case_{n}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            voxels = np.random.default_rng(n).integers(0, 2 if name == "labels" else 100, (4, 5, 6))
            nib.save(nib.Nifti1Image(voxels.astype(np.int16), np.diag([1.0, 2.0, 3.0, 1.0])), path)
    Picture.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "source" / "picture.png")
    ingest(source=tmp_path / "source", dataset=tmp_path / "dataset", key=tmp_path / "key", **QUIET)
    return tmp_path / "dataset"


def test_a_dataset_comes_out_as_it_went_in(dataset: Path, tmp_path: Path):
    exported = export(dataset=dataset, output=tmp_path / "out", **QUIET)
    manifest = Manifest.read(dataset)
    assert exported.num_images == len(manifest) == 3
    for row in manifest:
        sidecar = json.loads((exported.folder / f"{row.image_id}.json").read_text())
        assert (sidecar["split"], sidecar["study_id"]) == (row.split, row.study_id)
        if row.kind == "volume":
            volume = nib.load(exported.folder / f"{row.image_id}.nii.gz")
            assert np.array_equal(volume.get_fdata(), manifest.store.get(row.sha256)[0])
            assert np.abs(volume.affine.ravel() - row.affine).max() < 1e-6
            assert (exported.folder / f"{row.image_id}-mask.nii.gz").is_file() == (row.mask is not None)
        else:
            assert (exported.folder / f"{row.image_id}.png").is_file()


def test_no_name_or_path_of_the_source_is_in_what_is_exported(dataset: Path, tmp_path: Path):
    exported = export(dataset=dataset, output=tmp_path / "out", compress=False, **QUIET)
    paths = list(exported.folder.rglob("*"))
    assert any(path.name.endswith(".nii") for path in paths)
    for path in paths:
        assert "case_" not in path.name
        assert path.name == "config.yaml" or b"case_" not in path.read_bytes()


def test_a_failed_image_does_not_stop_the_others_and_makes_status_3(dataset: Path, tmp_path: Path, capsys):
    manifest = Manifest.read(dataset)
    volumes = [row for row in manifest if row.kind == "volume"]
    manifest.store.path(volumes[0].sha256).unlink()
    output = tmp_path / "out"
    assert main(["export", f"dataset={dataset}", f"output={output}", "tracking.enabled=false"]) == SOME_ITEMS_FAILED
    assert f"volume {volumes[0].image_id}" in capsys.readouterr().err
    assert len(list(output.glob("i-*.json"))) == 2


def test_an_export_of_splits_without_an_image_says_so_and_makes_status_3(dataset: Path, tmp_path: Path, capsys):
    absent = {"train", "val", "test"} - {row.split for row in Manifest.read(dataset)}
    words = [f"dataset={dataset}", f"output={tmp_path / 'out'}", f"splits=[{','.join(absent)}]"]
    assert main(["export", *words, "tracking.enabled=false"]) == SOME_ITEMS_FAILED
    assert "the dataset has no image in" in capsys.readouterr().err


def test_an_export_that_was_stopped_goes_on_and_writes_only_what_is_missing(dataset: Path, tmp_path: Path, monkeypatch):
    whole = export(dataset=dataset, output=tmp_path / "whole", **QUIET)
    get = Store.get
    last = Manifest.read(dataset).rows[-1].sha256

    def stop(self, address, region=()):
        if address == last:
            raise KeyboardInterrupt
        return get(self, address, region)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "get", stop)
        with pytest.raises(KeyboardInterrupt):
            export(dataset=dataset, output=tmp_path / "out", **QUIET)
    partial = tmp_path / "out.partial"
    times = {path.name: path.stat().st_mtime_ns for path in partial.glob("i-*")}
    assert times
    with pytest.raises(OutputError, match="resume=true"):
        export(dataset=dataset, output=tmp_path / "out", **QUIET)
    resumed = export(dataset=dataset, output=tmp_path / "out", resume=True, **QUIET)
    assert all((resumed.folder / name).stat().st_mtime_ns == time for name, time in times.items())
    names = sorted(path.name for path in whole.folder.glob("i-*"))
    assert names == sorted(path.name for path in resumed.folder.glob("i-*"))
    assert all((whole.folder / name).read_bytes() == (resumed.folder / name).read_bytes() for name in names)


def test_only_the_splits_asked_for_are_exported(dataset: Path, tmp_path: Path):
    splits = {row.split for row in Manifest.read(dataset)}
    chosen = sorted(splits)[0]
    config = ExportConfig.parse({"dataset": dataset, "output": tmp_path / "out", "splits": [chosen], **QUIET})
    exported = export(config)
    exported_splits = [json.loads(path.read_text())["split"] for path in exported.folder.glob("i-*.json")]
    assert set(exported_splits) == {chosen}
