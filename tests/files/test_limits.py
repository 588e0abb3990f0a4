from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medvit.errors import UnsupportedError
from medvit.files.limits import MAX_VOLUME_GIB, allow_volumes, check_volume
from medvit.readers import find
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
    assert "2145.8 MiB of voxels" in refusal.reason
    assert "above the limit of 2 GiB" in refusal.reason
    assert "raise max_volume_gib" in refusal.reason
    allow_volumes(4.0)
    (item,) = find([path])
    assert isinstance(item, Item)


def test_what_lies_uncompressed_in_a_file_has_no_other_limit_than_the_file() -> None:
    check_volume(5 * 2**30, 5 * 2**30)
    with pytest.raises(UnsupportedError):
        check_volume(5 * 2**30, 2**30)
