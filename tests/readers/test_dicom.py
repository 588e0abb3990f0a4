from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    PositronEmissionTomographyImageStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from medvit.geometry import like
from medvit.readers import find, read
from medvit.readers.dicom import source_affine
from medvit.records import Item, Refusal

OBLIQUE = [0.8, 0.6, 0.0, -0.36, 0.48, 0.8]


def only(files) -> Item | Refusal:
    (found,) = find(files)
    return found


@pytest.mark.parametrize("orientation", [[1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1], OBLIQUE])
def test_every_voxel_lies_where_its_slice_says(write_series, orientation):
    files, voxels = write_series(ImageOrientationPatient=orientation)
    image = read(only(files))
    for k, j, i in [(0, 0, 0), (4, 3, 5), (2, 1, 4)]:
        header = pydicom.dcmread(files[k])
        row, column = np.array(orientation, float).reshape(2, 3)
        lps = np.array(header.ImagePositionPatient, float) + i * 0.75 * row + j * 0.5 * column  # PS3.3 C.7.6.2.1.1
        index = np.round(image.affine.inverse()(lps * [-1, -1, 1])).astype(int)
        assert image.affine(index) == pytest.approx(lps * [-1, -1, 1], abs=1e-4)  # mm
        assert image.pixels[(0, *index)] == voxels[k, j, i]
    assert image.affine.orientation == "RAS"


def test_shuffled_slices_give_the_same_volume(write_series):
    files, _ = write_series()
    item = only(files)
    assert item.files == tuple(files)
    shuffled = Item(item.reader, tuple(sorted(files)), item.kind, item.modality)
    assert np.array_equal(read(item).pixels, read(shuffled).pixels)


def test_a_volume_goes_back_to_the_order_of_its_files(write_series):
    files, voxels = write_series(ImageOrientationPatient=OBLIQUE)
    item = only(files)
    image = read(item)
    back = like(image.pixels, image.affine, source_affine(item))
    assert np.array_equal(back[0].transpose(2, 1, 0), voxels)


def test_stored_integers_stay_and_rescale_gives_hu(write_series):
    files, voxels = write_series(dtype=np.uint16, RescaleSlope=2)
    image = read(only(files))
    assert (image.pixels.dtype, image.slope, image.intercept, image.unit) == (np.uint16, 2.0, -1024.0, "HU")
    assert image.intensities().mean() == pytest.approx(voxels.mean() * 2 - 1024, rel=1e-6)


def test_slices_with_their_own_rescale_come_in_real_values(write_slice):
    elements = {"SOPClassUID": PositronEmissionTomographyImageStorage, "Modality": "PT", "Units": "BQML"}
    pixels = np.full((4, 4), 10, np.int16)
    files = [
        write_slice(pixels, position=(0, 0, n), RescaleSlope=n + 1, RescaleIntercept=0, **elements) for n in range(3)
    ]
    image = read(only(files))
    assert image.pixels.dtype == np.float32
    assert image.pixels[0, 0, 0].tolist() == [10.0, 20.0, 30.0]
    assert image.unit == "BQML"


@pytest.mark.parametrize(
    ("stored", "bits", "expected"), [(np.uint8, 8, 255), (np.uint16, 12, 4095), (np.int16, 16, -1)]
)
def test_monochrome1_is_mirrored_so_that_high_is_bright(write_slice, stored, bits, expected):
    pixels = np.arange(16, dtype=stored).reshape(4, 4)
    file = write_slice(
        pixels,
        SOPClassUID=ComputedRadiographyImageStorage,
        Modality="CR",
        PhotometricInterpretation="MONOCHROME1",
        BitsStored=bits,
        HighBit=bits - 1,
        RescaleSlope=None,
        RescaleIntercept=None,
    )
    image = read(only([file]))
    assert image.pixels.dtype == stored
    assert np.array_equal(image.pixels[0], expected - pixels)


def test_hounsfield_units_are_not_mirrored(write_series):
    files, voxels = write_series(PhotometricInterpretation="MONOCHROME1")
    assert read(only(files)).pixels.sum() == voxels.sum()


def test_color_comes_channels_first(write_slice):
    pixels = np.random.default_rng(0).integers(0, 255, (4, 6, 3)).astype(np.uint8)
    item = only([write_slice(pixels, SOPClassUID=SecondaryCaptureImageStorage, Modality="OT")])
    assert item.kind == "image"
    assert np.array_equal(read(item).pixels, pixels.transpose(2, 0, 1))


def test_a_series_of_one_slice_is_an_image_with_its_pixel_size(write_slice):
    item = only([write_slice(np.zeros((4, 4), np.int16), PixelSpacing=[0.5, 0.5])])
    image = read(item)
    assert (item.kind, image.affine, image.mpp) == ("image", None, 500.0)


def test_a_localizer_is_an_image_beside_the_volume_of_its_series(write_series, write_slice, tmp_path: Path):
    write_series()
    write_slice(np.zeros((8, 8), np.int16), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    assert sorted(item.kind for item in find(sorted(tmp_path.iterdir()))) == ["image", "volume"]


@pytest.mark.parametrize(
    ("elements", "code", "reason"),
    [
        ({"SOPClassUID": SegmentationStorage}, "not_an_image", "a DICOM segmentation, derived from images"),
        ({"Rows": None}, "unreadable", "CT Image Storage without (0028,0010) Rows"),
        ({"NumberOfFrames": 3}, "geometry", "no (0020,0032) ImagePositionPatient in 3 of 3 slices"),
        ({"NumberOfFrames": 0}, "unreadable", "NumberOfFrames is not a number above 0"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "geometry", "without its private CSA header"),
        ({"Rows": 60000, "Columns": 60000}, "unreadable", "the header declares 6866.5 MiB of pixels"),
    ],
)
def test_what_is_no_single_image_is_refused_with_a_reason(write_slice, elements, code, reason):
    found = only([write_slice(np.zeros((4, 4), np.int16), **elements)])
    assert found.code == code
    assert reason in found.reason


def test_one_broken_file_does_not_stop_the_others(write_series, tmp_path: Path):
    files, _ = write_series()
    (tmp_path / "broken.dcm").write_bytes(files[0].read_bytes()[:200])
    (tmp_path / "text.dcm").write_text("no DICOM at all")
    found = list(find(sorted(tmp_path.iterdir())))
    assert sorted(type(one).__name__ for one in found) == ["Item", "Refusal", "Refusal"]
    assert {one.code for one in found if isinstance(one, Refusal)} == {"unreadable"}


def test_identity_is_carried_and_never_shown(write_series):
    files, _ = write_series()
    item = only(files)
    assert (item.identity.patient, item.identity.study, item.description) == ("SECRET-1", "1.2.3.4", "thin axial")
    shown = repr(item).replace(str(files[0].parent), "")
    assert "SECRET" not in shown
    assert "thin axial" not in shown


def test_the_name_stands_in_for_an_empty_patient_id(write_slice):
    assert only([write_slice(np.zeros((4, 4), np.int16), PatientID="")]).identity.patient == "Secret^Name"


def test_a_data_set_without_preamble_is_read(write_slice, tmp_path: Path):
    pixels = np.arange(16, dtype=np.int16).reshape(4, 4)
    dataset = pydicom.dcmread(write_slice(pixels))
    dataset.preamble, dataset.file_meta = None, FileMetaDataset()
    bare = tmp_path / "bare"
    pydicom.dcmwrite(bare, dataset, implicit_vr=True, little_endian=True)
    assert np.array_equal(read(only([bare])).pixels[0], pixels)


def test_a_real_series_without_identifiers_has_the_grid_of_its_label_map(shared_data):
    folder = shared_data / "totalseg-ct"
    image = read(only(sorted((folder / "ct_dicom").iterdir())))
    label_map = read(only([folder / "example_seg_dicom.nii.gz"]))
    assert image.affine.is_close(label_map.affine, 1e-3)
    assert image.intensities()[label_map.pixels == 5].mean() == pytest.approx(89, abs=2)  # the liver, HU


def test_a_real_study_gives_its_series_and_nothing_else(shared_data):
    files = sorted((shared_data / "brain-mr-dicom-studies" / "Study3").rglob("*.dcm"))
    items = list(find(files))
    assert len(items) == 5
    assert [item.description for item in items].count("HippoCrop") == 1
    assert sorted(round(read(item).affine.spacing_mm[2], 2) for item in items) == [1.0, 6.5, 6.5, 6.5, 6.5]


def test_a_real_tilted_study_keeps_its_pictures_and_refuses_the_tilted_series(shared_data):
    found = list(find(sorted(p for p in (shared_data / "dcm_qa_ct").rglob("*") if p.is_file())))
    items = [one for one in found if isinstance(one, Item)]
    refused = [one for one in found if isinstance(one, Refusal) and one.code == "geometry"]
    assert [item.kind for item in items] == ["image"] * 6
    assert len(refused[0].files) == 20
    assert "gantry tilt" in refused[0].reason
