from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image as Pillow
from pydicom import Dataset, dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless
from tifffile import imwrite

from medvit import phantoms
from medvit.errors import UnsupportedError
from medvit.files.limits import MAX_VOLUME_GIB, allow_volumes, check_volume
from medvit.readers import find, read
from medvit.readers.image_stack import StacksConfig
from medvit.records import Item, Refusal


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    yield
    allow_volumes(MAX_VOLUME_GIB)


def test_a_small_file_of_zeros_does_not_take_gigabytes(tmp_path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_data_shape((1500, 1500, 1000))
    header.set_data_dtype(np.uint8)
    header.set_sform(np.eye(4), code=1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + b"\0" * 4) + bytes(3 * 2**20))
    (refusal,) = find([path])
    assert isinstance(refusal, Refusal)
    assert refusal.code == "unsupported"
    assert "would be decompressed to 2145.8 MiB" in refusal.reason
    assert "above the limit of 2 GiB" in refusal.reason
    assert "raise max_volume_gib" in refusal.reason
    allow_volumes(4.0)
    (item,) = find([path])
    assert isinstance(item, Item)


def test_what_lies_nearly_uncompressed_in_a_file_has_no_other_limit_than_the_file() -> None:
    check_volume(5 * 2**30, 3 * 2**30)
    with pytest.raises(UnsupportedError):
        check_volume(5 * 2**30, 2**30)


SIDE = 1200
"""Of pictures of zeros: 1.4 MB each, in files of some kB."""
ZEROS = np.zeros((SIDE, SIDE), np.uint8)
LOW_GIB, HIGH_GIB = 0.001, 0.1


def _nifti(path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((128, 128, 128), np.uint8), np.eye(4)), path)


def _itk(path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((128, 128, 128), np.uint8)), str(path), useCompression=True)


def _frames(path: Path, syntax: str) -> None:
    dataset = _instance(path.parent)
    dataset.PixelData = np.zeros((SIDE, SIDE), np.uint16).tobytes()
    dataset.Rows = dataset.Columns = SIDE
    if syntax == DeflatedExplicitVRLittleEndian:
        dataset.file_meta.TransferSyntaxUID = syntax
    else:
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.save_as(path)


def _instance(folder: Path) -> Dataset:
    phantoms.write_ct_studies(folder / "phantom", 1)
    return dcmread(next((folder / "phantom").rglob("abdomen/*.dcm")))


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.png": lambda path: Pillow.fromarray(ZEROS).save(path),
    "a.jpg": lambda path: Pillow.fromarray(ZEROS).save(path),
    "a.gif": lambda path: Pillow.fromarray(ZEROS).save(path),
    "a.tif": lambda path: imwrite(path, ZEROS, compression="zlib"),
    "a.npz": lambda path: np.savez_compressed(path, train_images=np.zeros((9, 512, 512), np.uint8)),
    "a.nii.gz": _nifti,
    "a.mha": _itk,
    "a.nrrd": _itk,
    "rle.dcm": lambda path: _frames(path, RLELossless),
    "j2k.dcm": lambda path: _frames(path, JPEG2000Lossless),
    "deflated.dcm": lambda path: _frames(path, DeflatedExplicitVRLittleEndian),
}


def outcome(path: Path) -> str:
    """The reason why a file is refused, by finding or by reading; empty where it is taken."""
    found = list(find([path]))
    if isinstance(found[0], Refusal):
        return found[0].reason
    try:
        read(found[0])
    except UnsupportedError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", WRITERS)
def test_one_limit_holds_for_whatever_is_decompressed(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    allow_volumes(LOW_GIB)
    assert "above the limit of 0.001 GiB; raise max_volume_gib" in outcome(tmp_path / name)
    allow_volumes(HIGH_GIB)
    assert outcome(tmp_path / name) == ""


def test_a_stack_of_pictures_counts_as_a_whole(tmp_path: Path) -> None:
    for number in range(4):
        Pillow.fromarray(ZEROS[:600]).save(tmp_path / f"{number}.png")
    stacks = StacksConfig.parse({"spacing_mm": (1.0, 1.0, 1.0)})
    allow_volumes(LOW_GIB)
    (item,) = find(sorted(tmp_path.iterdir()), stacks=stacks)
    assert isinstance(item, Item)
    with pytest.raises(UnsupportedError, match=r"to 2\.7 MiB, .* raise max_volume_gib"):
        read(item)
