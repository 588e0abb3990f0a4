"""Of the pictures in a TIFF, the slide is the scan; if that is ambiguous, the file is refused."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from medvit import readers
from medvit.errors import DataError, UnsupportedError
from medvit.wsi.slide import open_slide

SCAN, MACRO = (400, 600), (120, 60)
TILED = {"tile": (64, 64), "photometric": "rgb", "compression": "zlib"}
STRIPS = {"photometric": "rgb", "rowsperstrip": 16}
CENTIMETER = 3
BLUE = (0, 0, 255)


def scan(shape: tuple[int, int] = SCAN) -> np.ndarray:
    return np.random.default_rng(0).integers(100, 200, (*shape, 3), dtype=np.uint8)


def beside(shape: tuple[int, int] = MACRO) -> np.ndarray:
    return np.full((*shape, 3), BLUE, np.uint8)


def per_cm(x: float, y: float) -> dict:
    return {"resolution": (1e4 / x, 1e4 / y), "resolutionunit": CENTIMETER}


def size_um(x: float, y: float) -> dict:
    return {"PhysicalSizeX": x, "PhysicalSizeY": y}


def write_ome(path: Path, *pictures: tuple[str, np.ndarray, dict]) -> Path:
    with tifffile.TiffWriter(path, ome=True) as file:
        for name, pixels, facts in pictures:
            file.write(pixels, subifds=1, metadata={"Name": name, "axes": "YXS", **facts}, **TILED)
            file.write(pixels[::2, ::2], subfiletype=1, **TILED)
    return path


def assert_is_scan(path: Path, mpp: float | None = None) -> None:
    slide = open_slide(path, mpp)
    assert slide.shape == SCAN
    assert slide.mpp == pytest.approx(0.5)
    np.testing.assert_array_equal(slide.read(40, 30, 100, slide.mpp), scan()[30:130, 40:140].transpose(2, 0, 1))


@pytest.mark.parametrize("name", ["macro", "Label image", "case_12_overview", "Thumbnail"])
@pytest.mark.parametrize("facts", [{}, size_um(8, 8), size_um(0.25, 0.5)])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_picture_named_as_beside_the_scan_is_never_the_slide(tmp_path: Path, name: str, facts: dict, is_first: bool):
    pictures = [(name, beside(), facts), ("scan", scan(), size_um(0.5, 0.5))]
    path = write_ome(tmp_path / "slide.ome.tif", *(pictures if is_first else pictures[::-1]))
    assert [item.kind for item in readers.find([path])] == ["slide"]
    assert_is_scan(path)


def test_a_macro_picture_larger_than_the_scan_is_not_the_slide_either(tmp_path: Path):
    large = ("macro", beside((800, 900)), size_um(0.5, 0.5))
    assert_is_scan(write_ome(tmp_path / "slide.ome.tif", large, ("scan", scan(), size_um(0.5, 0.5))))


@pytest.mark.parametrize("shape", [SCAN, MACRO, (380, 500)])
def test_two_pictures_of_which_either_may_be_the_scan_are_refused(tmp_path: Path, shape: tuple[int, int]):
    path = write_ome(tmp_path / "s.ome.tif", ("one", beside(shape), {}), ("two", scan(), size_um(0.5, 0.5)))
    with pytest.raises(UnsupportedError, match="a TIFF of 2 images that may be the slide"):
        open_slide(path, 0.5)


def test_a_file_of_nothing_but_a_label_is_refused(tmp_path: Path):
    path = write_ome(tmp_path / "slide.ome.tif", ("label", beside(), {}))
    with pytest.raises(UnsupportedError, match="a TIFF of 1 images, all named label, macro"):
        open_slide(path, 0.5)


def test_pictures_of_a_plain_tiff_in_strips_beside_a_pyramid_are_not_the_slide(tmp_path: Path):
    path = tmp_path / "slide.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(beside(), metadata=None, **STRIPS)
        file.write(scan(), metadata=None, **TILED, **per_cm(0.5, 0.5))
        file.write(scan()[::2, ::2], metadata=None, subfiletype=1, **TILED)
    assert [item.kind for item in readers.find([path])] == ["slide"]
    assert_is_scan(path)


def test_two_tiled_pictures_of_a_plain_tiff_are_refused(tmp_path: Path):
    path = tmp_path / "slide.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(beside(), metadata=None, **TILED)
        file.write(scan(), metadata=None, **TILED, **per_cm(0.5, 0.5))
    with pytest.raises(UnsupportedError, match=r"2 images that may be the slide \(600 x 400, 60 x 120 pixels\)"):
        open_slide(path)


def test_levels_that_skip_scales_stay_levels(tmp_path: Path):
    path = tmp_path / "slide.tif"
    with tifffile.TiffWriter(path) as file:
        for step in (1, 8, 16):
            file.write(scan()[::step, ::step], metadata=None, subfiletype=int(step > 1), **TILED, **per_cm(0.5, 0.5))
    assert [level.downsample for level in open_slide(path).levels] == pytest.approx([1, 8, 16], rel=0.02)


@pytest.mark.parametrize(("axes", "found"), [("ZYXS", "5 focal planes"), ("TYXS", "5 times")])
def test_a_stack_of_pictures_is_refused_rather_than_its_first_taken(tmp_path: Path, axes: str, found: str):
    path = tmp_path / "slide.ome.tif"
    stack = np.stack([scan()] * 5)
    tifffile.imwrite(path, stack, ome=True, metadata={"axes": axes, **size_um(0.5, 0.5)}, **TILED)
    with pytest.raises(UnsupportedError, match=f"a TIFF slide of {found} of one size"):
        open_slide(path, 0.5)


def test_channels_of_fluorescence_are_refused_rather_than_the_first_taken(tmp_path: Path):
    path = tmp_path / "slide.ome.tif"
    channels = scan().transpose(2, 0, 1)
    options = {"tile": (64, 64), "photometric": "minisblack"}
    tifffile.imwrite(path, channels, ome=True, metadata={"axes": "CYX", **size_um(0.5, 0.5)}, **options)
    with pytest.raises(UnsupportedError, match="3 channels of one size"):
        open_slide(path, 0.5)


def test_several_pages_of_one_size_are_refused(tmp_path: Path):
    path = tmp_path / "slide.tif"
    with tifffile.TiffWriter(path) as file:
        for _ in range(3):
            file.write(scan(), metadata=None, **TILED, **per_cm(0.5, 0.5))
    with pytest.raises(UnsupportedError, match="3 pages of one size"):
        open_slide(path)


def test_an_ome_tiff_opens_no_other_file(tmp_path: Path):
    secret = write_ome(tmp_path / "elsewhere.ome.tif", ("secret", scan(), size_um(0.5, 0.5)))
    path = write_ome(tmp_path / "slide.ome.tif", ("scan", scan(), size_um(0.5, 0.5)))
    with tifffile.TiffFile(secret) as file:
        uuid = file.ome_metadata.split('UUID="')[1].split('"')[0]
    with tifffile.TiffFile(path, mode="r+") as file:
        text = file.ome_metadata
        first = text.index("<TiffData")
        end = text.index("/>", first)
        part = f'{text[first:end]}><UUID FileName="{secret.name}">{uuid}</UUID></TiffData>'
        file.pages[0].tags["ImageDescription"].overwrite(text[:first] + part + text[end + 2 :])
    with pytest.raises(UnsupportedError, match="an OME-TIFF whose images are in several files"):
        open_slide(path, 0.5)


@pytest.mark.parametrize("sides", [(0.25, 0.5), (0.5, 0.25), (0.5, 1.0)])
@pytest.mark.parametrize("layout", ["ome", "tiled", "strips"])
@pytest.mark.parametrize("given", [None, 0.5])
def test_pixels_that_are_not_square_are_refused_by_each_reader(tmp_path: Path, sides: tuple, layout: str, given):
    path = tmp_path / "slide.ome.tif"
    if layout == "ome":
        write_ome(path, ("scan", scan(), size_um(*sides)))
    else:
        tifffile.imwrite(path, scan(), **(TILED if layout == "tiled" else STRIPS), **per_cm(*sides))
    with pytest.raises(UnsupportedError, match="pixels of {:g} x {:g} microns, which are not square".format(*sides)):
        open_slide(path, given)


@pytest.mark.parametrize("options", [TILED, STRIPS], ids=["tiled", "strips"])
def test_what_the_user_says_wins_over_a_resolution_of_a_screen(tmp_path: Path, options: dict):
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, scan(), resolution=(72, 72), resolutionunit=2, **options)
    assert_is_scan(path, 0.5)
    with pytest.raises(DataError, match=r"gives 352\.8 x 352\.8 microns per pixel, which no microscope has.*slide_mpp"):
        open_slide(path)


def test_what_a_header_says_that_can_be_wins_over_what_the_user_says_of_others(tmp_path: Path):
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, scan(), **TILED, **per_cm(0.5, 0.5))
    assert_is_scan(path, 0.25)
