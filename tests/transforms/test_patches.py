"""Patches and pixels are the same numbers."""

import pytest
import torch

from medvit.transforms.patches import patchify, unpatchify


@pytest.mark.parametrize(("shape", "patch"), [((12, 8), (4, 2)), ((8, 12, 4), (4, 2, 2))])
def test_unpatchify_undoes_patchify_bit_for_bit(shape, patch):
    pixels = torch.randn(2, 3, *shape)
    patches = patchify(pixels, patch)
    assert torch.equal(unpatchify(patches, patch, shape), pixels)


def test_patches_come_in_row_major_order():
    pixels = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert patchify(pixels, (2, 2))[0, 1].tolist() == [2, 3, 6, 7]
