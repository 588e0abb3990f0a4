from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
from PIL import Image as Pillow

from medvit.errors import UnsupportedError
from medvit.readers import find, read
from medvit.readers.image import READER
from medvit.records import Refusal

COLORS = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)


DEEP = np.random.default_rng(1).integers(0, 65536, (24, 32, 3)).astype(np.uint16)
TURNS = {
    1: DEEP,
    2: DEEP[:, ::-1],
    3: DEEP[::-1, ::-1],
    4: DEEP[::-1],
    5: DEEP.transpose(1, 0, 2),
    6: np.rot90(DEEP, -1),
    7: DEEP[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(DEEP),
}
"""The upright picture stored as `DEEP`, by its orientation (TIFF 6.0, section 8)."""


def only(path: Path):
    (found,) = find([path])
    return found


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_colors_come_channels_first(tmp_path: Path, suffix: str):
    Pillow.fromarray(COLORS).save(tmp_path / f"a.{suffix}")
    assert np.array_equal(read(only(tmp_path / f"a.{suffix}")).pixels, COLORS.transpose(2, 0, 1))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_stay_sixteen_bits_in_gray_and_in_color(tmp_path: Path, suffix: str):
    gray = np.random.default_rng(0).integers(0, 65536, (5, 7)).astype(np.uint16)
    Pillow.fromarray(gray).save(tmp_path / f"gray.{suffix}")
    deep = np.stack([gray, gray.T.reshape(5, 7), gray[::-1]], axis=-1)
    sitk.WriteImage(sitk.GetImageFromArray(deep, isVector=True), str(tmp_path / f"deep.{suffix}"))
    assert np.array_equal(read(only(tmp_path / f"gray.{suffix}")).pixels[0], gray)
    assert np.array_equal(read(only(tmp_path / f"deep.{suffix}")).pixels, deep.transpose(2, 0, 1))


def test_a_constant_alpha_is_dropped_and_a_varying_one_refused(tmp_path: Path):
    alpha = np.full((5, 7, 1), 255, np.uint8)
    Pillow.fromarray(np.concatenate([COLORS, alpha], -1)).save(tmp_path / "a.png")
    assert read(only(tmp_path / "a.png")).pixels.shape == (3, 5, 7)
    alpha[0, 0] = 0
    Pillow.fromarray(np.concatenate([COLORS, alpha], -1)).save(tmp_path / "b.png")
    with pytest.raises(UnsupportedError, match="some pixels are transparent"):
        read(only(tmp_path / "b.png"))


def test_a_palette_becomes_colors_and_a_gray_one_gray(tmp_path: Path):
    indices = Pillow.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    indices.putpalette([10, 20, 30, 40, 50, 60])
    indices.save(tmp_path / "a.png")
    assert read(only(tmp_path / "a.png")).pixels[:, 0, 1].tolist() == [40, 50, 60]
    indices.putpalette([10, 10, 10, 200, 200, 200])
    indices.save(tmp_path / "b.gif")
    assert read(only(tmp_path / "b.gif")).pixels.tolist() == [[[10, 200], [200, 10]]]


def test_exif_turns_the_picture_upright(tmp_path: Path):
    exif = Pillow.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    Pillow.fromarray(COLORS).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read(only(tmp_path / "a.png")).pixels, np.rot90(COLORS, -1).transpose(2, 0, 1))


def test_text_posing_as_an_image_is_unreadable(tmp_path: Path):
    for name in ("a.png", "b.svs", "c.jpg"):
        (tmp_path / name).write_text("no picture at all\n" * 60)
        assert only(tmp_path / name).code == "unreadable"


def test_many_pages_are_refused(tmp_path: Path):
    page = Pillow.fromarray(COLORS)
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page])
    assert "2 pages in one file" in only(tmp_path / "a.tif").reason


def test_real_pictures_of_every_folder_are_read(shared_data: Path):
    for pattern in ("busi-ultrasound/*/*", "brain-tumor-mri-2d/*/*/*", "wsi/tiles/*", "wsi/*.tif"):
        paths = sorted(shared_data.glob(pattern))[:12]
        assert paths, pattern
        for path in paths:
            image = read(only(path))
            assert image.pixels.ndim == 3
            assert image.pixels.dtype == np.uint8


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"tile": (16, 16)},
        {"rowsperstrip": 5},
        {"compression": "zlib", "predictor": True},
        {"compression": "lzw", "tile": (16, 32)},
        {"planarconfig": "separate"},
        {"byteorder": ">"},
        {"bigtiff": True},
    ],
)
def test_tiff_colors_of_sixteen_bits_are_whole_in_every_layout(tmp_path: Path, layout: dict):
    stored = DEEP.transpose(2, 0, 1).copy() if "planarconfig" in layout else DEEP
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", **layout)
    pixels = read(only(tmp_path / "a.tif")).pixels
    assert pixels.dtype == np.uint16
    assert np.array_equal(pixels, DEEP.transpose(2, 0, 1))


@pytest.mark.parametrize("orientation", TURNS)
def test_a_tiff_is_turned_upright_as_its_orientation_says(tmp_path: Path, orientation: int):
    tifffile.imwrite(tmp_path / "a.tif", DEEP, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    assert np.array_equal(read(only(tmp_path / "a.tif")).pixels, TURNS[orientation].transpose(2, 0, 1))


@pytest.mark.parametrize("orientation", TURNS)
def test_a_png_of_sixteen_bits_is_turned_as_its_label_map_is(tmp_path: Path, orientation: int):
    sitk.WriteImage(sitk.GetImageFromArray(DEEP, isVector=True), str(tmp_path / "a.png"))
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    Pillow.fromarray((DEEP[..., 0] // 256).astype(np.uint8)).save(tmp_path / "a_mask.png", exif=exif)
    content = (tmp_path / "a.png").read_bytes()
    at = (tmp_path / "a_mask.png").read_bytes()
    start = at.index(b"eXIf") - 4
    chunk = at[start : start + 12 + int.from_bytes(at[start : start + 4], "big")]
    (tmp_path / "a.png").write_bytes(content[:33] + chunk + content[33:])
    (item,) = find(sorted(tmp_path.iterdir()))
    image = read(item)
    assert np.array_equal(image.pixels, TURNS[orientation].transpose(2, 0, 1))
    assert np.array_equal(image.mask, TURNS[orientation][..., 0] // 256)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint32", "float32"])
def test_a_tiff_keeps_sign_and_bits(tmp_path: Path, dtype: str):
    info = np.finfo(dtype) if dtype.startswith("f") else np.iinfo(dtype)
    values = np.array([[info.min, 0, 1, info.max]], dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack")
    pixels = read(only(tmp_path / "a.tif")).pixels
    assert pixels.dtype == dtype
    assert np.array_equal(pixels[0], values)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_white_is_turned_bright_in_eight_and_sixteen_bits(tmp_path: Path, dtype: str):
    values = np.array([[0, 1, 200, 255]], dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite")
    assert np.array_equal(read(only(tmp_path / "a.tif")).pixels[0], np.iinfo(dtype).max - values)
    tifffile.imwrite(tmp_path / "b.tif", values.astype(np.float32), photometric="miniswhite")
    assert "white is zero in values of float32" in only(tmp_path / "b.tif").reason


@pytest.mark.parametrize("num_channels", [2, 4, 5])
def test_channels_that_are_neither_color_nor_constant_are_refused(tmp_path: Path, num_channels: int):
    values = np.random.default_rng(0).integers(0, 256, (8, 9, num_channels)).astype(np.uint8)
    photometric = "rgb" if num_channels > 3 else "minisblack"
    extra = ["unspecified"] * (num_channels - (3 if num_channels > 3 else 1))
    tifffile.imwrite(tmp_path / "a.tif", values, photometric=photometric, planarconfig="contig", extrasamples=extra)
    item = only(tmp_path / "a.tif")
    with pytest.raises(UnsupportedError, match=f"{num_channels} channels"):
        read(item)


def test_a_tiff_of_which_a_strip_is_missing_is_unreadable(tmp_path: Path):
    tifffile.imwrite(tmp_path / "a.tif", DEEP, photometric="rgb", rowsperstrip=8)
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content[:-10])
    assert "the file is truncated" in only(tmp_path / "a.tif").reason


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_labels_in_gray_of_few_bits_are_not_multiplied(tmp_path: Path, bits: int):
    labels = np.arange(2**bits, dtype=np.uint8)[None]
    Pillow.fromarray(labels).save(tmp_path / "a.png")
    as_gray(tmp_path / "a_mask.png", labels, bits)
    (item,) = find(sorted(tmp_path.iterdir()))
    assert np.array_equal(read(item).mask, labels)


def as_gray(path: Path, labels: np.ndarray, bits: int) -> None:
    """Write gray PNG of few bits: as a palette of that many, its color type then set to gray."""
    picture = Pillow.fromarray(labels, "P")
    picture.putpalette([value for level in range(2**bits) for value in (level, 0, 0)])
    picture.save(path, bits=bits)
    content = path.read_bytes()
    start = content.index(b"PLTE") - 4
    content = content[:start] + content[start + 12 + int.from_bytes(content[start : start + 4], "big") :]
    header = content[12:25] + b"\0" + content[26:29]
    path.write_bytes(content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:])


def test_a_palette_of_colors_gives_its_indices_also_where_those_in_use_are_gray(tmp_path: Path):
    labels = np.array([[0, 7, 7, 0]], np.uint8)
    Pillow.fromarray(labels).save(tmp_path / "a.png")
    picture = Pillow.fromarray(labels, "P")
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128, 128, 0, 128, 0, 128, 128, 128, 128, 128])
    picture.save(tmp_path / "a_mask.png")
    (item,) = find(sorted(tmp_path.iterdir()))
    assert np.array_equal(read(item).mask, labels)


@pytest.mark.parametrize("name", ["rgb16planar", "i8", "u32", "hopper_webp"])
def test_odd_tiffs_of_peers_are_what_tifffile_gives(shared_data: Path, name: str):
    path = peer(shared_data, f"{name}.tif")
    stored = tifffile.imread(path)
    expected = stored.transpose(2, 0, 1) if name == "hopper_webp" else stored.reshape(-1, *stored.shape[-2:])
    pixels = read(only(path)).pixels
    assert pixels.dtype == expected.dtype
    assert np.array_equal(pixels, expected)


def test_gray_and_alpha_of_sixteen_bits_are_read(shared_data: Path):
    pixels = read(only(peer(shared_data, "test_LA_16.png"))).pixels
    assert (pixels.shape, pixels.dtype) == ((1, 64, 64), np.uint16)


def peer(shared_data: Path, name: str) -> Path:
    if not (shared_data / "peers-odd" / name).is_file():
        pytest.skip("the data peers-odd are not beside the project")
    return shared_data / "peers-odd" / name


@pytest.mark.parametrize("name", ["a.jpg", "a.tif", "packed.tif"])
def test_pictures_in_inks_are_refused_as_images_and_as_label_maps(tmp_path: Path, name: str) -> None:
    inks = Pillow.fromarray(np.arange(64, dtype=np.uint8).reshape(4, 4, 4), "CMYK")
    inks.save(tmp_path / name, **({"compression": "jpeg"} if name == "packed.tif" else {}))
    (refusal,) = find([tmp_path / name])
    assert isinstance(refusal, Refusal)
    assert refusal.code == "unsupported"
    assert "in inks (CMYK), whose colors depend on a printer's profile; expected gray or RGB" in refusal.reason
    with pytest.raises(UnsupportedError, match=r"in inks \(CMYK\)"):
        READER.read_mask(tmp_path / name)
