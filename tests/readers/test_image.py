from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image as Pillow

from medvit.errors import UnsupportedError
from medvit.readers import find, read

COLORS = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)


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
    with pytest.raises(UnsupportedError, match="transparent in places"):
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
