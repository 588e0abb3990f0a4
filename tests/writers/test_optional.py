from __future__ import annotations

import errno
import logging
from pathlib import Path

import pytest

from medvit.errors import GeometryError, OutputError
from medvit.writers.optional import write_optional


def failing(path: Path, error: Exception) -> None:
    path.write_text("half of it")
    raise error


def test_a_writer_that_fails_costs_its_own_object_and_leaves_no_half_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "preview.png"
    with caplog.at_level("DEBUG", logger="medvit"):
        (note,) = write_optional("preview", path, lambda: failing(path, ValueError("of Doe^Jane")))
    assert note.startswith("there is no preview: its writer stopped with an unexpected ValueError")
    assert "Doe" not in note
    assert not path.exists()
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG  # shown by --debug alone
    assert record.exc_info is not None


def test_an_object_of_several_files_is_removed_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "object"
    folder.mkdir()
    write_optional("object", folder, lambda: failing(folder / "half", ValueError()))
    assert not folder.exists()


def test_a_reason_of_our_own_is_passed_on(tmp_path: Path) -> None:
    path = tmp_path / "seg.dcm"
    notes = write_optional("DICOM segmentation", path, lambda: failing(path, GeometryError("slices of 2 sizes")))
    assert notes == ["there is no DICOM segmentation: slices of 2 sizes"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), OSError(errno.EROFS, "read-only"), OutputError("x")])
def test_a_full_disk_is_not_the_fault_of_one_object(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)):
        write_optional("preview", tmp_path / "preview.png", lambda: failing(tmp_path / "preview.png", error))


def test_what_a_writer_has_to_say_is_kept(tmp_path: Path) -> None:
    assert write_optional("preview", tmp_path / "a", lambda: ["derived"]) == ["derived"]
    assert write_optional("preview", tmp_path / "a", lambda: None) == []
