"""Results of `medvit ingest scanning.geometry=...` for a series that lacks a slice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medvit.dataset import quarantine
from medvit.dataset.manifest import Manifest
from medvit.geometry import Affine
from medvit.phantoms.dicom import PhantomPatient, lose_slice, write_ct_series
from pipelines.datasets.export import export
from pipelines.ingest import ingest

QUIET = {"tracking": {"enabled": False}}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """One whole CT series, and one that has lost a slice."""
    hu = np.random.default_rng(0).integers(-1000, 1000, (6, 7, 9)).astype(np.int16)
    for number, name in enumerate(("whole", "broken")):
        folder = tmp_path / "source" / name
        write_ct_series(folder, hu, Affine.from_spacing((1.0, 1.0, 2.0)), subject=PhantomPatient(0, number))
        if name == "broken":
            lose_slice(folder)
    return tmp_path / "source"


@pytest.mark.parametrize(
    ("geometry", "num_rows", "num_refused"), [("refuse", 1, 1), ("resample", 2, 0), ("slices", 9, 0)]
)
def test_a_series_that_lacks_a_slice_is_refused_resampled_or_kept_as_slices(
    source: Path, tmp_path: Path, geometry: str, num_rows: int, num_refused: int
):
    made = ingest(
        source=source, dataset=tmp_path / "dataset", scanning={"geometry": geometry}, key=tmp_path / "key", **QUIET
    )
    assert len(made) == num_rows
    refused = quarantine.read(made.folder)
    assert [entry.code for entry in refused] == ["geometry"] * num_refused
    parts = sorted(row.part for row in Manifest.read(made.folder))
    kept = [f"slice {n} of 8" for n in range(1, 9)]
    assert parts == {"refuse": [""], "resample": ["", "resampled to a regular grid"], "slices": ["", *kept]}[geometry]


def test_the_json_of_a_resampled_volume_says_so(source: Path, tmp_path: Path):
    made = ingest(
        source=source, dataset=tmp_path / "dataset", scanning={"geometry": "resample"}, key=tmp_path / "key", **QUIET
    )
    exported = export(dataset=made.folder, output=tmp_path / "out", **QUIET)
    parts = [json.loads(path.read_text())["part"] for path in exported.folder.glob("i-*.json")]
    assert sorted(parts) == ["", "resampled to a regular grid"]
