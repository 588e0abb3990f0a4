"""The sentence of a refusal names the cause, not the place where a decoder gave up."""

from __future__ import annotations

import bz2
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pydicom.data
import pytest
import tifffile
from PIL import Image as Pillow
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from medvit.errors import DataError
from medvit.readers import find, read
from medvit.records import Item

COMPRESSED = (
    "JPEG2000.dcm",
    "MR_small_RLE.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "JPGExtended.dcm",
)
PEERS = {
    "2ch_uint8.tif": "2 channels",
    "a.mhd": "declares 240 bytes of voxels, the file contains 592",
    "longer.nrrd": "declares 48 bytes of voxels, the file contains 68",
    "nifti1.hdr": "names a data file that does not exist",
    "row_major.dconn.nii": "CIFTI-2",
    "ct_without_pixeldata.dcm": "its pixels were removed",
}
"""Required text in the reason for a refused file."""
TAKEN = {
    "7fe1_before_rows.dcm": (1, 128, 128),
    "fffc_before_pixels.dcm": (1, 128, 128),
    "GH364.dcm": None,
    "GH1339.dcm": None,
    "hopper_webp.tif": (3, 128, 128),
    "test_LA_16.png": (1, 64, 64),
}
"""Files that other programs read, too; their shape where one is known."""


def sentence(*files: Path) -> str:
    """Reason why the image in some files is refused."""
    (found,) = find(files)
    if not isinstance(found, Item):
        return found.reason
    with pytest.raises(DataError) as caught:
        read(found)
    return str(caught.value)


def peer(shared_data: Path, name: str) -> Path:
    if not (shared_data / "peers-odd" / name).is_file():
        pytest.skip("the data peers-odd are not beside the project")
    return shared_data / "peers-odd" / name


def small(name: str) -> Path:
    return Path(pydicom.data.__file__).parent / "test_files" / name


@pytest.mark.parametrize("name", PEERS)
def test_odd_files_of_peers_are_refused_for_what_they_are(shared_data: Path, name: str):
    assert PEERS[name] in sentence(peer(shared_data, name))


@pytest.mark.parametrize("name", TAKEN)
def test_odd_files_that_peers_read_are_read(shared_data: Path, name: str):
    (item,) = find([peer(shared_data, name)])
    shape = read(item).pixels.shape
    assert TAKEN[name] in (None, shape)


@pytest.mark.parametrize("name", COMPRESSED)
@pytest.mark.parametrize("share", [0.5, 0.8, 0.97])
def test_a_compressed_file_that_ends_too_early_is_cut_short(tmp_path: Path, name: str, share: float):
    content = small(name).read_bytes()
    start = content.index(b"\xe0\x7f\x10\x00O")
    end = content.rindex(b"\xfe\xff\xdd\xe0")
    (tmp_path / "a.dcm").write_bytes(content[: start + int(share * (end - start))])
    assert "truncated" in sentence(tmp_path / "a.dcm")


def test_a_missing_last_delimiter_costs_nothing(tmp_path: Path):
    content = small("JPEG2000.dcm").read_bytes()
    end = content.rindex(b"\xfe\xff\xdd\xe0")
    (tmp_path / "a.dcm").write_bytes(content[:end])
    (whole,), (bare,) = find([small("JPEG2000.dcm")]), find([tmp_path / "a.dcm"])
    assert np.array_equal(read(bare).pixels, read(whole).pixels)


def test_an_element_out_of_order_hides_nothing(tmp_path: Path):
    content = small("CT_small.dcm").read_bytes()
    stray = b"\xe1\x7f\x10\x00LO\x04\x00odd "
    (item,) = find([small("CT_small.dcm")])
    expected = read(item).pixels
    for tag in (b"\x28\x00\x10\x00US", b"\xe0\x7f\x10\x00OW"):
        at = content.index(tag)
        (tmp_path / "a.dcm").write_bytes(content[:at] + stray + content[at:])
        (item,) = find([tmp_path / "a.dcm"])
        assert np.array_equal(read(item).pixels, expected)


def test_a_header_without_pixels_is_not_cut_short_and_a_cut_one_is(tmp_path: Path):
    content = small("CT_small.dcm").read_bytes()
    at = content.index(b"\xe0\x7f\x10\x00OW")
    (tmp_path / "a.dcm").write_bytes(content[:at])
    assert "its pixels were removed" in sentence(tmp_path / "a.dcm")
    (tmp_path / "a.dcm").write_bytes(content[: at + 5000])
    assert "truncated" in sentence(tmp_path / "a.dcm")


def test_compressed_pixels_under_an_uncompressed_syntax_are_told(tmp_path: Path):
    dataset = pydicom.dcmread(small("JPEG2000.dcm"))
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    pixels = dataset.PixelData
    dataset["PixelData"].is_undefined_length = False
    dataset.PixelData = pixels + b"\0" * (len(pixels) % 2)
    dataset.save_as(tmp_path / "a.dcm")
    assert "compressed fragments" in sentence(tmp_path / "a.dcm")


def test_an_empty_modality_table_leaves_the_rescale(tmp_path: Path):
    dataset = pydicom.dcmread(small("CT_small.dcm"))
    (item,) = find([small("CT_small.dcm")])
    expected = read(item).intensities()
    for sequence in (Sequence([]), Sequence([Dataset()])):
        dataset.ModalityLUTSequence = sequence
        dataset.save_as(tmp_path / "a.dcm")
        (item,) = find([tmp_path / "a.dcm"])
        assert np.array_equal(read(item).intensities(), expected)


def test_whole_pictures_that_no_decoder_takes_are_unsupported_not_damaged(tmp_path: Path):
    pixels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    (tmp_path / "a.jpg").write_bytes(imagecodecs.jpeg_encode(pixels, level=90, bitspersample=12))
    assert "12 bits" in sentence(tmp_path / "a.jpg")
    tifffile.imwrite(tmp_path / "b.tif", pixels.astype(np.complex64))
    assert "real numbers" in sentence(tmp_path / "b.tif")
    Pillow.fromarray(pixels.astype(np.uint8)).save(tmp_path / "c.bmp")
    content = bytearray((tmp_path / "c.bmp").read_bytes())
    content[30] = 5  # compressed as PNG, which only printers know
    (tmp_path / "c.bmp").write_bytes(content)
    header = "NRRD0004\ntype: uint8\ndimension: 3\nspace: RAS\nsizes: 2 2 2\nencoding: bzip2\n"
    header += "space directions: (1,0,0) (0,1,0) (0,0,1)\n\n"
    (tmp_path / "d.nrrd").write_bytes(header.encode() + bz2.compress(bytes(8)))
    codes = [found.code for found in find(sorted(tmp_path.iterdir())) if not isinstance(found, Item)]
    assert codes == ["unsupported"] * 4


def test_a_frame_more_than_the_header_says_is_not_dropped(tmp_path: Path):
    dataset = pydicom.dcmread(small("CT_small.dcm"))
    dataset.PixelData = dataset.PixelData * 2
    dataset.save_as(tmp_path / "a.dcm")
    assert "at least one extra frame" in sentence(tmp_path / "a.dcm")
