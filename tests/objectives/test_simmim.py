"""Properties of simmim (Xie et al., CVPR 2022), some of them shared by hi_end_mae (Tang et al., 2025)."""

import math

import pytest
import torch

from medvit.objectives.simmim import absolute_loss, unit_masks
from medvit.transforms.patches import patchify, unpatchify
from medvit.types import Views

TINY_DECODER = {"decoder_width": 24, "decoder_heads": 2}
CHOICES = [("simmim", {}), ("hi_end_mae", TINY_DECODER), ("hi_end_mae_light", TINY_DECODER)]


@pytest.mark.parametrize("grid", [(6, 6), (6, 4, 8)])
def test_units_are_masked_whole_and_their_number_is_rounded_up(grid):
    mask = unit_masks(3, grid, unit=2, ratio=0.6, device=torch.device("cpu"))
    units = mask.unflatten(1, grid).float()
    for axis in range(1, len(grid) + 1):
        units = units.unflatten(axis, (-1, 2)).mean(axis + 1)
    assert set(units.flatten().tolist()) == {0.0, 1.0}
    assert units.flatten(1).sum(1).tolist() == [math.ceil(0.6 * math.prod(grid) / 2 ** len(grid))] * 3


def test_a_grid_that_is_no_whole_units_is_covered_all_the_same():
    assert unit_masks(2, (5, 3), unit=2, ratio=0.6, device=torch.device("cpu")).shape == (2, 15)


def test_the_loss_is_the_published_one_on_pixels():
    pixels, guess = (torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    mask = torch.tensor([[True, False, False, True], [False, True, True, True]])
    dense = mask.reshape(2, 1, 2, 2).repeat_interleave(8, 2).repeat_interleave(8, 3).double()
    expected = ((pixels - guess).double().abs() * dense).sum() / (dense.sum() + 1e-5) / 3
    found = absolute_loss(patchify(guess, (8, 8)), patchify(pixels, (8, 8)), mask, 3)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


def test_the_loss_ignores_what_is_predicted_for_visible_patches():
    target, mask = torch.randn(2, 4, 5), torch.tensor([[True, False, False, True], [False, True, True, True]])
    predicted = torch.randn(2, 4, 5, requires_grad=True)
    absolute_loss(predicted, target, mask, 1).backward()
    assert predicted.grad[~mask].abs().max() == 0
    assert predicted.grad[mask].abs().min() > 0


def test_the_loss_ignores_the_pixels_under_visible_patches():
    predicted, target = torch.randn(2, 4, 5), torch.randn(2, 4, 5)
    mask = torch.tensor([[True, False, False, True], [False, True, True, True]])
    changed = torch.where(mask[..., None], target, torch.tensor(9.0))
    assert torch.equal(absolute_loss(predicted, changed, mask, 1), absolute_loss(predicted, target, mask, 1))


@pytest.mark.parametrize("ndim", [2, 3])
def test_hidden_pixels_do_not_reach_the_encoder_of_simmim(make, views, ndim):
    objective, pixels = make("simmim", ndim=ndim), views(ndim).crops[0]
    torch.manual_seed(3)
    predicted, mask = objective.reconstruct(pixels)
    patches = torch.where(mask[..., None], torch.tensor(9.0), patchify(pixels, objective.backbone.patch_size))
    torch.manual_seed(3)
    again, _ = objective.reconstruct(unpatchify(patches, objective.backbone.patch_size, pixels.shape[2:]))
    torch.testing.assert_close(predicted, again, atol=1e-5, rtol=0)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize(("name", "options"), CHOICES)
def test_the_loss_falls_and_every_weight_learns(make, name, options, ndim):
    objective = make(name, ndim=ndim, mask_ratio=0.5, **options)
    ramp = torch.linspace(-1, 1, 16)
    pixels = ramp.reshape(-1, *(1,) * (ndim - 1)) * torch.ones(4, 1, *(16,) * ndim)
    batch = Views(pixels[None].clone())
    optimizer = torch.optim.AdamW(objective.parameters(), lr=2e-3, fused=True)
    losses = []
    for step in range(60):
        torch.manual_seed(step)
        optimizer.zero_grad()
        loss = objective(batch, 0.5).total
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert [n for n, w in objective.named_parameters() if w.requires_grad and w.grad is None] == []
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(("name", "options"), CHOICES)
def test_one_image_in_16_bits_gives_a_number(make, views, name, options):
    objective = make(name, **options)
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective(views(num_images=1), 0.0).total
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


@pytest.mark.parametrize(("name", "options"), CHOICES)
def test_pictures_show_original_seen_and_rebuilt(make, views, name, options):
    figure = make(name, **options).eval().pictures(views())["reconstruction"]
    assert [axes.get_title() for axes in figure.axes[:3]] == ["image", "seen by the encoder", "rebuilt"]
