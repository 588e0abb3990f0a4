from __future__ import annotations

import warnings
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest

from medvit import readers
from medvit.errors import MedvitError, UnsupportedError
from medvit.files.guard import decoding, silence
from medvit.records import Item
from medvit.sources.folder import files

FOLDERS = {
    "dcm_qa_nih": {"volume": 18, "refused": 18},
    "dcm_qa_ts": {"volume": 18, "refused": 12},
    "dicom-odd": {"image": 25, "volume": 1, "refused": 18},
    "highdicom-sm-seg-sr": {"image": 2, "slide": 6, "refused": 17},
    "torchio-ct-series": {"volume": 1, "refused": 2},
    "totalseg-ct": {"volume": 7, "refused": 3},
    "wsi": {"image": 13, "slide": 1, "refused": 3},
}
"""Real folders, and the expected kinds of their files."""


def test_every_format_of_the_room_is_found_by_its_file():
    assert [reader.name for reader in readers.readers()] == [
        "slide",
        "array",
        "channels",
        "dicom",
        "heyex",
        "image",
        "itk",
        "nifti",
        "stack",
    ]
    assert all(isinstance(reader, readers.Reader) for reader in readers.readers())
    with pytest.raises(MedvitError, match="no reader is named 'nifty'; known are slide, array, channels, dicom"):
        readers.reader("nifty")


REFUSED_PIXELS = {"dicom-odd": 1}
"""Images whose header is fine and whose pixels are not: gray values that stand for colors."""


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_real_file_is_told_of_and_what_is_found_is_read_or_refused(shared_data: Path, folder: str):
    sources = files(shared_data / folder)
    found = list(readers.find(sources))
    named = [file for one in found for file in one.files]
    assert sorted(set(named)) == sources
    assert Counter(one.kind if isinstance(one, Item) else "refused" for one in found) == FOLDERS[folder]
    refused = []
    for item in found:
        if isinstance(item, Item) and item.kind != "slide":
            try:
                assert readers.read(item).pixels.size > 0
            except UnsupportedError as error:
                refused.append(str(error))
    assert len(refused) == REFUSED_PIXELS.get(folder, 0), refused


def test_strangers_and_empty_files_are_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "empty.dcm").touch()
    found = {one.files[0].name: one.code for one in readers.find(sorted(tmp_path.iterdir()))}
    assert found == {"notes.txt": "not_an_image", "empty.dcm": "unreadable"}


def test_a_refused_image_takes_its_label_map_along(tmp_path: Path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.nii.gz").write_bytes(b"nonsense")
    (found,) = readers.find(sorted(tmp_path.rglob("*.gz")))
    assert len(found.files) == 2


def test_what_a_decoder_says_does_not_get_out():
    with pytest.raises(MedvitError) as caught, decoding("the volume"):
        raise KeyError("/data/Doe^Jane/1.dcm")
    assert "Doe" not in f"{caught.value} {caught.value.__cause__}"
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("around", [nullcontext, silence], ids=["alone", "within silence"])
def test_what_a_decoder_warns_of_does_not_get_out_and_later_warnings_do(around):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with around(), decoding("the volume"):
            warnings.warn("Doe^Jane is no number", stacklevel=1)
        warnings.warn("later", stacklevel=1)
    assert [str(one.message) for one in seen] == ["later"]


def test_a_file_that_is_gone_is_said_to_be_gone(tmp_path: Path):
    item = Item(reader="nifti", files=(tmp_path / "a.nii",), kind="volume")
    with pytest.raises(MedvitError, match="the volume cannot be read: its file is gone"):
        readers.read(item)
