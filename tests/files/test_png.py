"""The PNG encoder writes what other programs read."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from medvit.files.png import encode_png


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 1, 3), (1, 5, 3), (64, 33, 3)])
def test_pillow_reads_back_every_pixel(shape: tuple[int, int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    with Image.open(BytesIO(encode_png(picture))) as found:
        assert found.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(found), picture)


def test_a_picture_that_is_not_contiguous_is_encoded_right() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (20, 30, 3)).astype(np.uint8)[::-1, ::2]
    with Image.open(BytesIO(encode_png(picture))) as found:
        np.testing.assert_array_equal(np.asarray(found), picture)
