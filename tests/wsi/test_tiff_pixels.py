"""Pixels of TIFF slides match the header with every decoder, or the file is refused."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from medvit import readers
from medvit.errors import UnreadableError, UnsupportedError
from medvit.records import Item
from medvit.wsi.fast_tiff import _verdict, plain
from medvit.wsi.openslide_backend import OpenSlidePyramid
from medvit.wsi.slide import open_slide
from medvit.wsi.tiff_backend import TiffPyramid

HEIGHT, WIDTH = 150, 200
LAYOUTS = [
    {},
    {"rowsperstrip": 16, "compression": "zlib"},
    {"tile": (64, 64)},
    {"tile": (64, 64), "compression": "zlib"},
]
layouts = pytest.mark.parametrize("layout", LAYOUTS, ids=["mapped", "strips", "tiles", "coded tiles"])


def color() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def whole(path: Path) -> np.ndarray:
    slide = open_slide(path, 0.5)
    assert slide.shape == (HEIGHT, WIDTH)
    overlapping = [slide.read(x, 0, HEIGHT, 0.5) for x in (0, WIDTH - HEIGHT)]
    return np.concatenate([overlapping[0], overlapping[1][..., 2 * HEIGHT - WIDTH :]], axis=2).transpose(1, 2, 0)


@layouts
def test_a_palette_gives_its_colors(tmp_path: Path, layout: dict):
    palette = np.random.default_rng(1).integers(0, 2**16, (3, 256), dtype=np.uint16)
    indices = color()[..., 0]
    tifffile.imwrite(tmp_path / "s.tif", indices, photometric="palette", colormap=palette, **layout)
    np.testing.assert_array_equal(whole(tmp_path / "s.tif"), (palette >> 8).T[indices])


@layouts
def test_gray_is_gray_whether_white_or_black_is_zero(tmp_path: Path, layout: dict):
    gray = color()[..., 0]
    for kind, expected in (("minisblack", gray), ("miniswhite", 255 - gray)):
        tifffile.imwrite(tmp_path / f"{kind}.tif", gray, photometric=kind, **layout)
        np.testing.assert_array_equal(whole(tmp_path / f"{kind}.tif"), np.repeat(expected[..., None], 3, axis=2))


@layouts
def test_channels_apart_give_the_same_as_side_by_side(tmp_path: Path, layout: dict):
    planes = color().transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "s.tif", planes, photometric="rgb", planarconfig="separate", **layout)
    np.testing.assert_array_equal(whole(tmp_path / "s.tif"), color())


@layouts
@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_what_is_transparent_is_white(tmp_path: Path, layout: dict, kind: str):
    alpha = np.random.default_rng(2).integers(0, 256, (HEIGHT, WIDTH, 1), dtype=np.uint8)
    alpha[:40] = 0
    share = alpha / 255.0
    stored = color() if kind == "unassalpha" else np.rint(color() * share).astype(np.uint8)
    pixels = np.concatenate([stored, alpha], axis=2)
    tifffile.imwrite(tmp_path / "s.tif", pixels, photometric="rgb", extrasamples=[kind], **layout)
    found = whole(tmp_path / "s.tif")
    assert (found[:40] == 255).all()
    assert np.abs(found - (color() * share + 255 * (1 - share))).max() <= 2  # gray levels


@layouts
def test_a_further_channel_of_unknown_meaning_is_left_out_only_where_it_is_full(tmp_path: Path, layout: dict):
    for name, value in (("full", 255), ("empty", 0)):
        pixels = np.concatenate([color(), np.full((HEIGHT, WIDTH, 1), value, np.uint8)], axis=2)
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels, photometric="rgb", extrasamples=["unspecified"], **layout)
    np.testing.assert_array_equal(whole(tmp_path / "full.tif"), color())
    with pytest.raises(UnsupportedError, match="ExtraSamples does not declare as opacity"):
        whole(tmp_path / "empty.tif")


@layouts
def test_inks_are_refused_as_inks(tmp_path: Path, layout: dict):
    tifffile.imwrite(tmp_path / "s.tif", np.zeros((HEIGHT, WIDTH, 4), np.uint8), photometric="separated", **layout)
    with pytest.raises(UnsupportedError, match=r"whose colors are inks \(CMYK\); expected RGB"):
        open_slide(tmp_path / "s.tif", 0.5)


@pytest.mark.parametrize(
    ("pixels", "photometric", "found"),
    [
        (np.zeros((HEIGHT, WIDTH, 5), np.uint8), "minisblack", "5 channels, of which 1 are gray"),
        (np.zeros((HEIGHT, WIDTH, 3), np.uint16), "rgb", r"3 channels of 16 bits \(uint16\)"),
        (np.zeros((HEIGHT, WIDTH), np.int8), "minisblack", r"1 channels of 8 bits \(int8\)"),
        (np.zeros((HEIGHT, WIDTH, 3), np.uint8), "ycbcr", "whose colors are YCbCr, compressed as NONE"),
        (np.zeros((HEIGHT, WIDTH, 3), np.uint8), "cielab", "whose colors are CIELAB"),
    ],
)
def test_other_samples_are_refused_by_name(tmp_path: Path, pixels: np.ndarray, photometric: str, found: str):
    tifffile.imwrite(tmp_path / "s.tif", pixels, photometric=photometric, planarconfig="contig", tile=(64, 64))
    with pytest.raises(UnsupportedError, match=found):
        open_slide(tmp_path / "s.tif", 0.5)


@pytest.mark.parametrize("orientation", range(1, 9))
@layouts
def test_a_turned_slide_is_upright_as_a_whole(tmp_path: Path, layout: dict, orientation: int):
    tag = (274, "H", 1, orientation, True)
    tifffile.imwrite(tmp_path / "s.tif", color(), photometric="rgb", extratags=[tag], metadata=None, **layout)
    slide = open_slide(tmp_path / "s.tif", 0.5)
    with Image.open(tmp_path / "s.tif") as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture))
    assert slide.shape == expected.shape[:2]
    for x, y in ((0, 0), (30, 11), (slide.shape[1] - 100, slide.shape[0] - 100)):
        found = slide.read(x, y, 100, 0.5).transpose(1, 2, 0)
        np.testing.assert_array_equal(found, expected[y : y + 100, x : x + 100])


def test_levels_turned_otherwise_than_the_first_are_refused(tmp_path: Path):
    with tifffile.TiffWriter(tmp_path / "s.tif") as file:
        for step, orientation in ((1, 3), (2, 1)):
            extra = {"extratags": [(274, "H", 1, orientation, True)], "subfiletype": int(step > 1)}
            file.write(color()[::step, ::step], photometric="rgb", tile=(64, 64), metadata=None, **extra)
    with pytest.raises(UnsupportedError, match="levels have the orientations 1, 3"):
        open_slide(tmp_path / "s.tif", 0.5)


@pytest.mark.parametrize("codec", ["jpeg2000", "webp", "jpegxl", "lzw", "zstd", "packbits"])
def test_each_compression_with_a_decoder_gives_its_pixels(tmp_path: Path, codec: str):
    args = {"lossless": True} if codec in ("webp", "jpegxl") else {}
    options = {"photometric": "rgb", "tile": (64, 64), "compression": codec, "compressionargs": args}
    with tifffile.TiffWriter(tmp_path / "s.tif") as file:
        file.write(color(), **options)
        file.write(color()[::2, ::2], subfiletype=1, **options)
    np.testing.assert_array_equal(whole(tmp_path / "s.tif"), color())


def test_a_compression_without_a_decoder_is_unsupported_and_named(tmp_path: Path):
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, color(), photometric="rgb", tile=(64, 64))
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["Compression"].overwrite(int(tifffile.COMPRESSION.SGILOG))
    with pytest.raises(UnsupportedError, match="compressed as SGILOG, which no installed decoder supports"):
        open_slide(path, 0.5)


def test_damaged_jpeg_2000_ends_in_a_reason(tmp_path: Path):
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, color(), photometric="rgb", tile=(64, 64), compression="jpeg2000")
    content = path.read_bytes()
    assert content.count(b"\xff\x4f\xff\x51") == 12
    path.write_bytes(content.replace(b"\xff\x4f\xff\x51", b"\0\0\0\0"))
    with pytest.raises(UnreadableError, match="is cut short or damaged"):
        whole(path)


def test_pictures_that_two_decoders_see_differently_are_told_apart(tmp_path: Path):
    options = {"photometric": "rgb", "tile": (64, 64)}
    tifffile.imwrite(tmp_path / "one.tif", color(), **options)
    tifffile.imwrite(tmp_path / "other.tif", color()[::-1], **options)
    one = OpenSlidePyramid(tmp_path / "one.tif")
    assert _verdict(one, TiffPyramid(tmp_path / "one.tif")) == "same"
    assert _verdict(one, TiffPyramid(tmp_path / "other.tif")) == "different"


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2)])
def test_jpeg_of_any_subsampling_is_not_taken_for_a_disagreement(tmp_path: Path, subsampling: tuple[int, int]):
    options = {"compression": "jpeg", "photometric": "ycbcr", "subsampling": subsampling, "tile": (64, 64)}
    tifffile.imwrite(tmp_path / "s.tif", color(), **options)
    assert plain(tmp_path / "s.tif").levels[0].shape == (HEIGHT, WIDTH)


def test_strips_of_more_pixels_than_any_picture_are_a_slide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, color(), photometric="rgb", rowsperstrip=16)
    kinds = []
    for largest in (HEIGHT * WIDTH, HEIGHT * WIDTH - 1):
        monkeypatch.setattr("medvit.readers.slide.MAX_PIXELS", largest)
        kinds += [found.kind for found in readers.find([path]) if isinstance(found, Item)]
    assert kinds == ["image", "slide"]


def test_the_colors_of_aperio_that_only_openslide_turns_to_rgb_are_left_to_it(tmp_path: Path):
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, color(), photometric="rgb", tile=(64, 64), compression="jpeg2000")
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["Compression"].overwrite(int(tifffile.COMPRESSION.APERIO_JP2000_YCBC))
    with pytest.raises(UnsupportedError, match="compressed as APERIO_JP2000_YCBC"):
        TiffPyramid(path)
