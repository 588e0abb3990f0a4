"""Conformance on real files: `conformance.csv` has a line per file or series, with the expected result.

`expected` counts kinds of images and codes of refusals, as `2 image + geometry`; `files` is a pattern below `data`,
whose files are read together. Data are folders next to the project, or pydicom's own test files.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom.data
import pytest

from medvit import readers
from medvit.dataset.export import write_nifti
from medvit.errors import DataError
from medvit.records import Item

TABLE = Path(__file__).parent / "conformance.csv"
CASES = [tuple(line.values()) for line in csv.DictReader(TABLE.read_text(encoding="utf-8").splitlines())]
PYDICOM = Path(pydicom.data.__file__).parent / "test_files"

REFERENCES = [
    ("dcm_qa_nih", "In/20180918GE/mr_0004/*.dcm", "Ref/DCM2NIIX_regression_test_4.nii"),
    ("dcm_qa_nih", "In/20180918Si/mr_0003/*.dcm", "Ref/EPI_PE=AP_3.nii"),
    ("dcm_qa_nih", "In/20180918Si/mr_0004/*.dcm", "Ref/EPI_PE=PA_4.nii"),
    ("dcm_qa_nih", "In/20180918Si/mr_0005/*.dcm", "Ref/EPI_PE=RL_5.nii"),
    ("dcm_qa_nih", "In/20180918Si/mr_0006/*.dcm", "Ref/EPI_PE=LR_6.nii"),
    *(("dcm_qa_ts", f"In/{number}.dcm", f"Ref/{number}.nii") for number in range(1, 10)),
]
"""DICOM series, and the NIfTI files that dcm2niix made of them."""

AFFINE_TOLERANCE_MM = 1e-3

BLAME = re.compile(r"\(\w*(Error|Exception|Warning)\)|find the files again|run the command again|unexpected")
"""Signs of a refusal sentence that only repeats an exception."""


def folder_of(data: str, shared_data: Path) -> Path:
    if data == "pydicom":
        return PYDICOM
    if not (shared_data / data).is_dir():
        pytest.skip(f"the data {data} are not beside the project")
    return shared_data / data


def files_of(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_file())


def outcome(found: Item | readers.Refusal) -> str:
    """The result of an ingest: a kind of image, or the code of its quarantine."""
    if not isinstance(found, Item):
        check_sentence(found.reason)
        return found.code
    try:
        return readers.read(found).kind
    except DataError as error:
        check_sentence(str(error))
        return error.code


def check_sentence(reason: str) -> None:
    """A refusal of a known file names the fault, not the place where a decoder gave up."""
    assert reason
    assert not BLAME.search(reason), reason


@pytest.mark.parametrize(("data", "pattern", "expected"), CASES, ids=[f"{case[0]}/{case[1]}" for case in CASES])
def test_every_file_ends_as_the_table_says(shared_data: Path, data: str, pattern: str, expected: str) -> None:
    files = files_of(folder_of(data, shared_data), pattern)
    assert files
    found = list(readers.find(files))
    assert {file for one in found for file in one.files} == set(files)
    counts = sorted(Counter(map(outcome, found)).items())
    assert " + ".join(kind if number == 1 else f"{number} {kind}" for kind, number in counts) == expected


@pytest.mark.parametrize("data", sorted({case[0] for case in CASES}))
def test_the_table_names_every_file(shared_data: Path, data: str) -> None:
    folder = folder_of(data, shared_data)
    named = {file for case in CASES if case[0] == data for file in files_of(folder, case[1])}
    there = {path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert there - named == set()


@pytest.mark.parametrize("data", sorted({case[0] for case in CASES}))
def test_all_files_of_a_folder_at_once_are_told_of(shared_data: Path, data: str) -> None:
    files = files_of(folder_of(data, shared_data), "**/*")
    assert {file for one in readers.find(files) for file in one.files} == set(files)


@pytest.mark.parametrize(("data", "pattern", "reference"), REFERENCES, ids=[case[2] for case in REFERENCES])
def test_volumes_agree_with_their_reference_in_place_and_value(
    shared_data: Path, tmp_path: Path, data: str, pattern: str, reference: str
) -> None:
    folder = folder_of(data, shared_data)
    expected = nib.as_closest_canonical(nib.load(folder / reference))
    values = np.asarray(expected.dataobj)
    times = values[..., None] if values.ndim == 3 else values
    items = list(readers.find(files_of(folder, pattern)))
    assert len(items) == times.shape[-1]
    for time, item in enumerate(items):
        image = readers.read(item)
        write_nifti(tmp_path / "a.nii", image.pixels[0], image.affine, image.slope, image.intercept)
        found = nib.load(tmp_path / "a.nii")
        assert np.abs(found.affine - expected.affine).max() < AFFINE_TOLERANCE_MM
        assert np.array_equal(np.asarray(found.dataobj), times[..., time])
