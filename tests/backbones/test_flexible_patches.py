"""FlexiViT: resized kernels give the tokens of resized images, and training draws the size of the patches."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from medvit.backbones.vit import ViT, VitConfig
from medvit.errors import DataError
from medvit.weights import resize_kernel

SMALL = {"width": 48, "depth": 2, "heads": 2}


def resized(pixels: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    if len(size) == 3:
        return F.interpolate(pixels, size=size, mode="trilinear", align_corners=False)
    return F.interpolate(pixels, size=size, mode="bicubic", antialias=True, align_corners=False)


def flexible(ndim: int = 2, sizes: tuple[int, ...] = (4, 8), **options: object) -> ViT:
    torch.manual_seed(0)
    return VitConfig(ndim=ndim, channels=2, patch_size=4, patch_sizes=sizes, **SMALL, **options).build().eval()


@pytest.mark.parametrize("before", [(16, 16), (4, 4, 4)])
def test_a_kernel_of_the_same_size_is_unchanged(before):
    kernel = torch.randn(3, 2, *before)
    assert resize_kernel(kernel, before) is kernel


@pytest.mark.parametrize(
    ("before", "after"), [((16, 16), (24, 24)), ((16, 16), (32, 32)), ((4, 4, 4), (6, 6, 6)), ((4, 4, 2), (8, 6, 4))]
)
def test_an_enlarged_patch_has_the_token_of_the_original_one(before, after):
    """<w, x> = <w', Bx> to 1e-5 for kernels of unit norm."""
    torch.manual_seed(0)
    kernel = F.normalize(torch.randn(5, 1, *before).flatten(1)).reshape(5, 1, *before)
    patches = torch.randn(7, 1, *before)
    expected = patches.flatten(1) @ kernel.flatten(1).T
    found = resized(patches, after).flatten(1) @ resize_kernel(kernel, after).flatten(1).T
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_reduced_patch_has_the_nearest_token_only():
    """Reduction loses detail: on noise, the relative error is large, and no other kernel has a smaller one."""
    torch.manual_seed(0)
    kernel, patches = torch.randn(1, 1, 16, 16), torch.randn(4000, 1, 16, 16)
    expected = patches.flatten(1) @ kernel.flatten()
    small = resized(patches, (8, 8)).flatten(1)
    error = (small @ resize_kernel(kernel, (8, 8)).flatten() - expected).square().mean() / expected.square().mean()
    best = torch.linalg.lstsq(small, expected[:, None]).solution
    least = (small @ best - expected[:, None]).square().mean() / expected.square().mean()
    assert 0.5 < error < 1.3
    assert error >= least


@pytest.mark.parametrize("ndim", [2, 3])
def test_an_enlarged_image_has_the_same_embeddings_with_enlarged_patches(ndim):
    """Exact, since each patch is enlarged by itself; positions are those of the place, not of the index."""
    model = flexible(ndim)
    pixels = torch.randn(2, 2, *(4,) * ndim)
    usual, grid = model.embed(pixels)
    model.use_patch_size(8)
    large, same = model.embed(resized(pixels, (8,) * ndim))
    assert grid == same
    torch.testing.assert_close(
        large - model.added_positions(grid, (8,) * ndim), usual - model.added_positions(grid), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_positions_belong_to_places_in_the_image(positions):
    """A patch of 8 pixels has about the mean of the positions of the patches of 4 pixels that it covers."""
    model = flexible(positions=positions, image_size=32)
    with torch.no_grad():
        for token in (model.pos_embed,) if model.pos_embed is not None else ():
            token.copy_(torch.linspace(0, 1, 8).repeat(8)[None, :, None])
    fine = model.added_positions((8, 8), (4, 4)).reshape(8, 8, -1)
    coarse = model.added_positions((4, 4), (8, 8)).reshape(4, 4, -1)
    pooled = fine.unflatten(0, (4, 2)).unflatten(2, (4, 2)).mean(dim=(1, 3))
    slow = slice(6, 12) if positions == "sincos" else slice(None)  # sines of low frequency, of the first axis
    torch.testing.assert_close(coarse[1:-1, 1:-1, slow], pooled[1:-1, 1:-1, slow], atol=0.06, rtol=0)


@pytest.mark.parametrize("ndim", [2, 3])
def test_training_draws_among_the_sizes_that_fit_and_inference_uses_the_usual_one(ndim):
    model, pixels = flexible(ndim, sizes=(4, 8, 12)), torch.randn(1, 2, *(16,) * ndim)
    assert model(pixels).grid == (4,) * ndim
    model.train()
    assert {model(pixels).grid for _ in range(12)} == {(4,) * ndim, (2,) * ndim}
    model.eval().use_patch_size(8)
    assert model(pixels).grid == (2,) * ndim
    model.use_patch_size(None)
    assert model(pixels).grid == (4,) * ndim


def test_the_usual_size_gives_the_features_of_a_vit_with_fixed_patches():
    model, pixels = flexible(), torch.randn(1, 2, 16, 16)
    fixed = VitConfig(ndim=2, channels=2, patch_size=4, **SMALL).build().eval()
    fixed.load_state_dict(model.state_dict())
    assert torch.equal(model(pixels).patches, fixed(pixels).patches)


def test_gradients_of_every_size_reach_the_stored_kernel():
    model = flexible(sizes=(8,)).train()
    model(torch.randn(1, 2, 16, 16)).patches.sum().backward()
    assert model.patch_embed["proj"].weight.grad.abs().sum() > 0


def test_images_that_no_size_divides_are_refused():
    model = flexible().train()
    with pytest.raises(DataError, match=r"one of the patch sizes \(4, 4\), \(8, 8\)"):
        model(torch.randn(1, 2, 18, 16))
