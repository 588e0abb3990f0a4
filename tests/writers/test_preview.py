from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image as Picture

from medvit.geometry import Affine
from medvit.types import Image, Prediction
from medvit.writers import COLORS
from medvit.writers.caption import HEIGHT as CAPTION
from medvit.writers.caption import caption
from medvit.writers.preview import HEIGHT, write_preview


def dots(shape: tuple[int, ...], *at: tuple[slice | int, ...]) -> np.ndarray:
    mask = np.zeros(shape, dtype=np.uint8)
    for label, place in enumerate(at, start=1):
        mask[place] = label
    return mask


def test_slices_show_the_patients_right_and_front_to_the_left_and_the_head_above(tmp_path: Path) -> None:
    # One block to the right, front and top (the last voxels of R, A, S), the other opposite.
    mask = dots((20, 20, 20), (slice(10, 20),) * 3, (slice(0, 10),) * 3)
    image = Image(np.zeros((1, 20, 20, 20), np.int16), "volume", affine=Affine.from_spacing((1.0, 1.0, 1.0)))
    write_preview(tmp_path / "p.png", image, Prediction(("b", "x", "y"), mask=mask, affine=image.affine))
    picture = np.asarray(Picture.open(tmp_path / "p.png"))
    assert picture.shape == (2 * HEIGHT + CAPTION, 3 * HEIGHT, 3)
    assert picture[:HEIGHT].max() == 0
    for n in range(3):
        tile = picture[HEIGHT : 2 * HEIGHT, n * HEIGHT : (n + 1) * HEIGHT].astype(int)
        first, last = tile[HEIGHT // 4, HEIGHT // 4], tile[3 * HEIGHT // 4, 3 * HEIGHT // 4]
        hue = [int(np.argmin([np.abs(pixel - 0.4 * np.array(c)).sum() for c in COLORS])) for pixel in (first, last)]
        # The middle slice is in one of the two blocks; the other is not visible.
        assert (first.max() > 0) != (last.max() > 0)
        assert hue[0] == 0 if first.max() > 0 else hue[1] == 1
        assert tile[HEIGHT // 4, 3 * HEIGHT // 4].max() == 0


def test_a_slice_has_its_shape_in_the_body_and_not_in_voxels(tmp_path: Path) -> None:
    image = Image(np.zeros((1, 20, 20, 5), np.int16), "volume", affine=Affine.from_spacing((1.0, 2.0, 8.0)))
    write_preview(tmp_path / "p.png", image, Prediction(("a", "b"), probabilities=np.array([0.5, 0.5])))
    # 20 x 40 x 40 mm: axial and coronal are half as wide as high, sagittal is square.
    assert Picture.open(tmp_path / "p.png").size == (HEIGHT // 2 + HEIGHT // 2 + HEIGHT, HEIGHT + CAPTION)


def test_an_image_is_shown_as_it_is(tmp_path: Path) -> None:
    gray = np.tile(np.arange(40, dtype=np.uint8), (20, 1))
    mask = dots((20, 40), (slice(0, 10), slice(0, 10)))
    write_preview(tmp_path / "p.png", Image(gray[None], "image"), Prediction(("b", "x"), mask=mask))
    picture = np.asarray(Picture.open(tmp_path / "p.png")).astype(int)
    assert picture.shape == (2 * HEIGHT + CAPTION, 2 * HEIGHT, 3)
    assert picture[HEIGHT // 2, 0, 0] < picture[HEIGHT // 2, -1, 0]
    assert picture[HEIGHT + 20, 20, 0] > picture[HEIGHT + 20, 20, 1]
    assert (np.ptp(picture[HEIGHT + 20, -20]), np.ptp(picture[2 * HEIGHT - 20, 20])) == (0, 0)


def test_the_last_line_names_each_class_beside_its_color(tmp_path: Path) -> None:
    mask = dots((20, 40), (slice(0, 10), slice(0, 10)))
    write_preview(
        tmp_path / "p.png", Image(np.zeros((1, 20, 40), np.uint8), "image"), Prediction(("b", "x", "y"), mask=mask)
    )
    line = np.asarray(Picture.open(tmp_path / "p.png"))[-CAPTION:]
    first, second = (np.flatnonzero((line == color).all(axis=-1).any(axis=0)) for color in COLORS[:2])
    assert 0 < first.max() < second.min()
    assert (line[:, first.max() + 1 : second.min()] < 128).any()  # the name of the first


def test_slices_cross_where_all_classes_are_seen(tmp_path: Path) -> None:
    # A large block over all of the first axis, and a small one near its end.
    mask = dots((20, 20, 20), (slice(None), slice(0, 10), slice(None)), (slice(16, 18), slice(12, 15), slice(9, 12)))
    image = Image(np.zeros((1, 20, 20, 20), np.int16), "volume", affine=Affine.from_spacing((1.0, 1.0, 1.0)))
    write_preview(tmp_path / "p.png", image, Prediction(("b", "x", "y"), mask=mask, affine=image.affine))
    sagittal = np.asarray(Picture.open(tmp_path / "p.png"))[HEIGHT : 2 * HEIGHT, 2 * HEIGHT :]
    assert (sagittal.argmax(axis=-1) == 1).any()  # green, the color of the second class


def test_a_caption_wider_than_its_picture_continues_on_the_next_line():
    parts = [(f"finding {number}", (230, 60, 60)) for number in range(6)]
    found, wide = caption(200, parts), caption(2000, parts)
    assert (found.shape, wide.shape) == ((3 * CAPTION, 200, 3), (CAPTION, 2000, 3))
    reds = [(picture == (230, 60, 60)).all(axis=-1).sum() for picture in (found, wide)]
    assert reds[0] == reds[1] > 0  # every square is drawn whole
