import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps
from pydicom import dcmread

from medvit import phantoms, readers
from medvit.errors import DataError, UnreadableError, UnsupportedError
from medvit.records import Item, Refusal
from medvit.wsi.fast_tiff import of_maker, plain
from medvit.wsi.openslide_backend import OpenSlidePyramid, vendor
from medvit.wsi.slide import open_slide
from medvit.wsi.tiff_backend import TiffPyramid

MICRONS_20X = 0.5
CENTIMETER = 3


def picture(height: int = 700, width: int = 900) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows % 256, columns % 256, (rows + columns) // 8 % 256], axis=-1).astype(np.uint8)


def pyramid(path: Path, pixels: np.ndarray, *, mpp: float | None = MICRONS_20X, levels: int = 3, **options) -> Path:
    known = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": CENTIMETER}
    with tifffile.TiffWriter(path) as writer:
        for level in range(levels):
            writer.write(
                pixels[:: 2**level, :: 2**level], photometric="rgb", subfiletype=int(level > 0), **known, **options
            )
    return path


@pytest.fixture
def tiled(tmp_path: Path) -> Path:
    return pyramid(tmp_path / "slide.tif", picture(), tile=(128, 128), compression="deflate")


def test_a_region_at_the_own_scale_is_the_pixels_of_the_file(tiled: Path):
    slide = open_slide(tiled)
    assert slide.shape == (700, 900)
    assert slide.mpp == pytest.approx(MICRONS_20X, rel=1e-4)
    np.testing.assert_array_equal(slide.read(130, 70, 256, slide.mpp), picture()[70:326, 130:386].transpose(2, 0, 1))


def test_a_coarser_region_covers_as_much_more_of_the_slide(tiled: Path):
    slide = open_slide(tiled)
    pixels = slide.read(256, 128, 64, 4 * slide.mpp)
    expected = picture()[128 : 128 + 256 : 4, 256 : 256 + 256 : 4].transpose(2, 0, 1)
    assert np.abs(pixels.astype(int) - expected).max() <= 1  # gray levels


@pytest.mark.parametrize("options", [{}, {"rowsperstrip": 16, "compression": "deflate"}, {"tile": (64, 64)}])
def test_plain_files_in_strips_and_tiles_give_their_pixels(tmp_path: Path, options: dict):
    slide = open_slide(pyramid(tmp_path / "plain.tif", picture(), levels=1, **options))
    np.testing.assert_array_equal(slide.read(33, 77, 200, slide.mpp), picture()[77:277, 33:233].transpose(2, 0, 1))


def test_ome_tiff_gives_its_scale_and_its_levels(tmp_path: Path):
    path = tmp_path / "slide.ome.tif"
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        scale = {"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "µm"}
        options = {"photometric": "rgb", "tile": (128, 128), "compression": "deflate"}
        writer.write(picture(), subifds=1, metadata={"axes": "YXS", **scale}, **options)
        writer.write(picture()[::2, ::2], subfiletype=1, **options)
    slide = open_slide(path)
    assert slide.mpp == 0.25
    assert [level.shape for level in slide.levels] == [(700, 900), (350, 450)]
    assert slide.read(0, 0, 128, 0.5).shape == (3, 128, 128)


def test_the_overview_is_the_slide_small(tiled: Path):
    overview = open_slide(tiled).overview(90)
    assert overview.shape == (3, 70, 90)
    assert abs(float(overview[1].mean()) - float(picture()[..., 1].mean())) < 2  # gray levels


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ((800, 0, 256, 0.5), "is outside the slide"),
        ((-1, 0, 16, 0.5), "is outside"),
        ((0, 0, 16, 0.25), "finer|0.25"),
    ],
)
def test_a_tile_outside_the_slide_or_finer_than_it_is_refused(tiled: Path, place: tuple, message: str):
    with pytest.raises(DataError, match=message):
        open_slide(tiled).read(*place)


def test_a_slide_without_microns_per_pixel_is_refused_unless_they_are_given(tmp_path: Path):
    path = pyramid(tmp_path / "slide.tif", picture(), mpp=None, tile=(128, 128))
    with pytest.raises(DataError, match=r"has no microns per pixel.*tiles\.slide_mpp"):
        open_slide(path)
    assert open_slide(path, 0.25).mpp == 0.25


def test_a_file_that_is_cut_short_is_refused_when_it_is_found(tiled: Path, tmp_path: Path):
    path = tmp_path / "short.tif"
    whole = pyramid(path, picture(), tile=(128, 128), compression="deflate").read_bytes()
    with tifffile.TiffFile(path) as file:
        last = file.pages[-1]
        end = last.dataoffsets[-1] + last.databytecounts[-1]
    path.write_bytes(whole[: end - 100] if end == len(whole) else whole)
    found = {f.files[0].name: f for f in readers.find([path, tiled])}
    assert isinstance(found["slide.tif"], Item)
    refused = found["short.tif"]
    assert isinstance(refused, Refusal)
    assert "the pyramid level of 225 x 175 pixels is cut short" in refused.reason


def test_a_slide_whose_lower_levels_are_lost_is_refused_as_a_slide_and_not_as_a_picture(tiled: Path, tmp_path: Path):
    with tifffile.TiffFile(tiled) as file:
        lost = file.pages[1].offset
    short = tmp_path / "lost.tif"
    short.write_bytes(tiled.read_bytes()[:lost])
    (found,) = readers.find([short])
    assert isinstance(found, Refusal)
    assert "so levels of the slide are missing; copy it again" in found.reason


@pytest.mark.parametrize("name", ["short.tif", "short.svs", "short.dcm"])
@pytest.mark.parametrize("num_bytes", [4, 8, 60, 1000])
def test_the_beginning_of_a_slide_is_refused_under_any_name(tiled: Path, name: str, num_bytes: int):
    short = tiled.with_name(name)
    short.write_bytes(tiled.read_bytes()[:num_bytes])
    (found,) = readers.find([short])
    assert isinstance(found, Refusal)


def test_pyramids_are_slides_and_photographs_are_pictures(tiled: Path, tmp_path: Path):
    plain = pyramid(tmp_path / "photo.tif", picture(), levels=1)
    kinds = {item.files[0].name: item.kind for item in readers.find([tiled, plain])}
    assert kinds == {"slide.tif": "slide", "photo.tif": "image"}


def test_an_aperio_slide_opens_and_text_in_its_name_is_refused(shared_data: Path):
    slide = open_slide(shared_data / "wsi" / "cmu-1-small-region.svs")
    assert (slide.shape, slide.mpp) == ((2967, 2220), 0.499)
    assert len(slide.levels) == 1  # neither label nor macro
    with pytest.raises(UnreadableError, match="not of a supported slide format"):
        open_slide(shared_data / "wsi" / "broken.svs")


def test_dicom_slides_of_another_maker_open_tile_by_tile(shared_data: Path, tmp_path: Path):
    folder = shared_data / "highdicom-sm-seg-sr"
    for name in ("sm_image_dots.dcm", "sm_image_jpegls.dcm", "sm_image_numbers.dcm"):
        slide = open_slide((folder / name,))
        assert (slide.shape, slide.mpp, slide.tile_side) == ((50, 50), pytest.approx(0.499), 10)
        assert slide.read(5, 5, 40, 0.499).shape == (3, 40, 40)
    with pytest.raises(UnsupportedError, match="a DICOM slide of 2 pictures of one size in one series"):
        open_slide((folder / "sm_image_grayscale.dcm",))
    shutil.copy(folder / "sm_image_grayscale.dcm", tmp_path)
    with pytest.raises(UnsupportedError, match="a DICOM slide of uint16 pixels; expected 8 bits"):
        open_slide((tmp_path / "sm_image_grayscale.dcm",)).read(0, 0, 10, 0.499)


def test_a_second_copy_of_a_level_is_told_and_another_one_of_its_uid_is_refused(tmp_path: Path):
    (study,) = phantoms.write_slide_studies(tmp_path, 1)
    level = next(path for path in sorted(study.rglob("*.dcm")) if dcmread(path).ImageType[2] == "VOLUME")
    copy = level.with_name("z-copy.dcm")
    shutil.copy(level, copy)
    found = list(readers.find(sorted(study.rglob("*.dcm"))))
    (slide,) = [one for one in found if isinstance(one, Item)]
    assert [one.files for one in found if isinstance(one, Refusal) and one.code == "duplicate"] == [(copy,)]
    assert open_slide(slide.files).shape
    copy.write_bytes(level.read_bytes()[:-1] + b"x")
    with pytest.raises(
        UnreadableError, match=r"two of the \d DICOM files of the slide have the same .* SOPInstanceUID"
    ):
        open_slide((*slide.files, copy))


def test_pixels_past_openslide_are_those_of_openslide(shared_data: Path, tiled: Path):
    for path in (shared_data / "wsi" / "cmu-1-small-region.svs", tiled):
        ours = of_maker(path, vendor(path)) if path.suffix == ".svs" else plain(path)
        theirs = OpenSlidePyramid(path)
        assert isinstance(ours, TiffPyramid)
        for number, level in enumerate(theirs.levels):
            place = (number, level.shape[1] - 150, level.shape[0] - 120, 150, 120)
            np.testing.assert_array_equal(ours.region(*place), theirs.region(*place))


def rewrite(path: Path, **changes) -> None:
    """Change a DICOM file: set attributes, or remove those with the value None; `spacing` is PixelSpacing."""
    dataset = dcmread(path)
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    for name, value in changes.items():
        place, key = (measures, "PixelSpacing") if name == "spacing" else (dataset, name)
        if value is None:
            delattr(place, key)
        else:
            setattr(place, key, value)
    dataset.save_as(path)


@pytest.fixture
def levels(tmp_path: Path) -> list[Path]:
    """The files of the levels of a DICOM slide."""
    (study,) = phantoms.write_slide_studies(tmp_path, 1)
    return sorted(study.glob("level-*.dcm"))


@pytest.mark.parametrize("has_extent", [True, False])
def test_a_dicom_slide_without_spacing_takes_what_the_user_says(levels: list[Path], has_extent: bool):
    before = open_slide(levels)
    expected = before.read(256, 256, 128, 2 * before.mpp)
    for path in levels:
        rewrite(path, spacing=None, **({} if has_extent else {"ImagedVolumeWidth": None, "ImagedVolumeHeight": None}))
    with pytest.raises(DataError, match=r"has no microns per pixel.*tiles\.slide_mpp"):
        open_slide(levels)
    slide = open_slide(levels, 0.25)
    assert slide.mpp == 0.25
    assert slide.levels == before.levels
    np.testing.assert_array_equal(slide.read(256, 256, 128, 0.5), expected)


def test_dicom_pixels_that_are_not_square_are_refused(levels: list[Path]):
    for number, path in enumerate(levels):
        rewrite(path, spacing=[0.0005 * 2**number, 0.00025 * 2**number])
    with pytest.raises(UnsupportedError, match=r"pixels of 0\.25 x 0\.5 microns, which are not square"):
        open_slide(levels, 0.5)


def test_what_the_user_says_wins_over_a_dicom_spacing_that_no_microscope_has(levels: list[Path]):
    for number, path in enumerate(levels):
        rewrite(path, spacing=[0.3528 * 2**number] * 2)
    assert open_slide(levels, 0.5).mpp == 0.5
    with pytest.raises(DataError, match=r"gives 352\.8 x 352\.8 microns per pixel, which no microscope has"):
        open_slide(levels)


def second_scan(levels: list[Path], **changes) -> Path:
    """A copy of the first level in the same folder, like another instance, with other attributes."""
    copy = levels[0].with_name("second.dcm")
    dataset = dcmread(levels[0])
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{dataset.SOPInstanceUID[:60]}.7"
    for name, value in changes.items():
        setattr(dataset, name, value)
    dataset.save_as(copy)
    return copy


def test_two_pyramids_in_one_dicom_series_are_refused_rather_than_the_first_taken(levels: list[Path]):
    copy = second_scan(levels)
    dataset = dcmread(copy)
    dataset.TotalPixelMatrixOriginSequence[0].XOffsetInSlideCoordinateSystem = 5
    dataset.save_as(copy)
    with pytest.raises(UnsupportedError, match="a DICOM slide of 2 pyramids in one series"):
        open_slide([*levels, copy])


def test_pyramids_of_one_dicom_series_that_have_names_of_their_own_are_refused_when_found(levels: list[Path]):
    for number, path in enumerate(levels):
        rewrite(path, PyramidUID=f"1.2.3.{min(number, 1)}")
    (found,) = readers.find(levels)
    assert isinstance(found, Refusal)
    assert (found.code, found.files) == ("unsupported", tuple(levels))
    assert found.reason.startswith("a DICOM slide of 2 pyramids in one series")
    with pytest.raises(UnsupportedError, match="2 pyramids in one series"):
        open_slide(levels[0])


def test_two_scans_of_one_scale_in_one_dicom_series_are_refused(levels: list[Path]):
    copy = second_scan(levels)
    dataset = dcmread(copy)
    dataset.TotalPixelMatrixColumns = dataset.TotalPixelMatrixColumns - 256
    dataset.NumberOfFrames = dataset.NumberOfFrames - -(-dataset.TotalPixelMatrixRows // 256)
    dataset.save_as(copy)
    with pytest.raises(UnsupportedError, match="a DICOM slide of 2 pictures of one scale in one series"):
        open_slide([*levels, copy])


def test_two_pictures_of_one_size_in_one_dicom_series_are_refused(levels: list[Path]):
    with pytest.raises(UnsupportedError, match="a DICOM slide of 2 pictures of one size in one series"):
        open_slide([*levels, second_scan(levels)])


def test_a_second_optical_path_in_a_dicom_series_is_refused(levels: list[Path]):
    copy = second_scan(levels)
    dataset = dcmread(copy)
    dataset.OpticalPathSequence[0].OpticalPathIdentifier = "2"
    dataset.SharedFunctionalGroupsSequence[0].OpticalPathIdentificationSequence[0].OpticalPathIdentifier = "2"
    dataset.save_as(copy)
    with pytest.raises(UnsupportedError, match="a DICOM slide of 2 optical paths in one series"):
        open_slide([*levels, copy])


def test_a_dicom_level_that_cannot_be_opened_is_not_left_out_in_silence(levels: list[Path]):
    rewrite(levels[-1], TotalPixelMatrixRows=None)
    with pytest.raises(UnreadableError, match=rf"1 of the {len(levels)} DICOM files of the slide cannot be opened"):
        open_slide(levels)


def test_public_slides_in_odd_forms_are_right(shared_data: Path):
    folder = shared_data / "peers-odd"
    with Image.open(folder / "test_orient3.tif") as picture:
        upright = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    turned = open_slide(folder / "test_orient3.tif", 0.5)
    assert turned.shape == upright.shape[:2]
    np.testing.assert_array_equal(turned.read(10, 50, 100, 0.5), upright[50:150, 10:110].transpose(2, 0, 1))
    with tifffile.TiffFile(folder / "j2k.tif") as file:
        expected = file.asarray()
    coded = open_slide(folder / "j2k.tif")
    assert (coded.shape, coded.mpp) == ((1024, 1024), 0.5)
    np.testing.assert_array_equal(coded.read(200, 300, 512, 0.5), expected[300:812, 200:712].transpose(2, 0, 1))
