from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.fileset import FileSet

from medvit.dataset.manifest import Manifest
from medvit.errors import DataError
from medvit.phantoms import write_ct_studies
from medvit.sources import Local, RetrieveConfig, fetch
from pipelines.ingest import IngestConfig, ingest


@pytest.fixture
def medium(tmp_path: Path) -> Path:
    """A medium with a DICOMDIR over one study, and a file that it does not refer to."""
    write_ct_studies(tmp_path / "raw", 1)
    files = FileSet()
    for path in (tmp_path / "raw").rglob("*.dcm"):
        files.add(path)
    files.write(tmp_path / "medium")
    (tmp_path / "medium/README.TXT").write_text("viewer")
    return tmp_path / "medium"


def found(path: Path) -> Local:
    return fetch(str(path), RetrieveConfig(), work=path.parent)


def images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in ("DICOMDIR", "README.TXT"))


def ingested(source: Path, dataset: Path) -> Manifest:
    tree = {"source": source, "dataset": dataset, "name": "test", "key": dataset.parent / "site.key"}
    return ingest(IngestConfig.parse({**tree, "tracking": {"enabled": False}}))


def test_the_files_that_it_refers_to_are_taken_and_no_other(medium: Path) -> None:
    local = found(medium / "DICOMDIR")
    assert list(local.files) == images(medium)
    assert local.refusals == ()


def test_a_dataset_from_a_directory_is_the_one_from_its_folder(medium: Path, tmp_path: Path) -> None:
    assert ingested(medium / "DICOMDIR", tmp_path / "a").hash == ingested(medium, tmp_path / "b").hash


def test_a_missing_file_is_reported(medium: Path) -> None:
    lost = images(medium)[3]
    lost.unlink()
    local = found(medium / "DICOMDIR")
    assert lost not in local.files
    (refusal,) = local.refusals
    assert (refusal.files, refusal.code) == ((lost,), "missing")
    assert "is missing" in refusal.reason
    for path in images(medium):
        path.unlink()
    with pytest.raises(DataError, match="all 33 files"):
        found(medium / "DICOMDIR")


def test_a_medium_copied_in_lower_case_is_found(medium: Path) -> None:
    for path in sorted(medium.rglob("*"), key=lambda path: -len(path.parts)):
        path.rename(path.with_name(path.name.lower()))
    local = found(medium / "dicomdir")
    assert len(local.files) == 33
    assert local.refusals == ()


def test_a_reference_that_leads_out_of_the_medium_is_not_followed(medium: Path, tmp_path: Path) -> None:
    content = (medium / "DICOMDIR").read_bytes()
    first = images(medium)[0].relative_to(medium).parts
    reference = "\\".join(first).encode()
    assert reference in content
    out = b"..\\OUT"
    (tmp_path / "OUT").write_bytes(images(medium)[0].read_bytes())
    (medium / "DICOMDIR").write_bytes(content.replace(reference, out.ljust(len(reference)), 1))
    local = found(medium / "DICOMDIR")
    assert len(local.refusals) == 1
    assert all(path.is_relative_to(medium) for path in (*local.files, *local.refusals[0].files))


@pytest.mark.parametrize("content", [b"", b"\0" * 128 + b"DICM", b"no DICOM at all"])
def test_a_directory_that_cannot_be_read_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "DICOMDIR").write_bytes(content)
    with pytest.raises(DataError, match="DICOMDIR cannot be read"):
        found(tmp_path / "DICOMDIR")
