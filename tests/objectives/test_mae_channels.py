"""MAE with a token for each channel of a patch: missing channels are neither seen nor reconstructed."""

from __future__ import annotations

import pytest
import torch

from medvit.backbones.channel_vit import ChannelVitConfig
from medvit.channels import mark_missing, present_channels
from medvit.objectives.mae import Mae, MaeConfig
from medvit.types import Views

PRESENT = torch.tensor([[True, False, True], [True, True, True]])


def objective(ndim: int = 2, positions: str = "sincos") -> Mae:
    torch.manual_seed(0)
    options = {"patch_size": 4, "width": 48, "depth": 2, "heads": 2, "positions": positions}
    backbone = ChannelVitConfig(ndim=ndim, channels=3, channel_names=("a", "b", "c"), **options).build()
    return MaeConfig(decoder_width=32, decoder_depth=1, decoder_heads=2).build(backbone).eval()


def images(ndim: int = 2) -> torch.Tensor:
    return torch.randn(2, 3, *(16,) * ndim, generator=torch.Generator().manual_seed(1))


def loss_of(mae: Mae, pixels: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(3)
    return mae(Views(pixels[None]), 0.0).total


@pytest.mark.parametrize("positions", ["sincos", "rope"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_the_loss_does_not_depend_on_a_missing_channel(ndim, positions):
    mae, pixels = objective(ndim, positions), images(ndim)
    loss = loss_of(mae, mark_missing(pixels, PRESENT))
    other = pixels.clone()
    other[0, 1] += 100.0
    assert loss.isfinite()
    assert torch.equal(loss, loss_of(mae, mark_missing(other, PRESENT)))
    assert not torch.equal(loss_of(mae, pixels), loss_of(mae, other))


def test_only_patches_of_present_channels_are_visible_or_targets():
    mae, pixels = objective(), mark_missing(images(), PRESENT)
    masking = mae.see(pixels).masking
    known = present_channels(pixels).repeat_interleave(16, dim=1)
    assert known.gather(1, masking.ids_keep).all()
    assert masking.ids_keep.shape == (2, int(2 * 16 * 0.25))
    assert masking.mask.sum(dim=1).tolist() == [2 * 16 - 8, 3 * 16 - 8]
    assert not masking.mask[~known].any()


def test_targets_are_the_patches_of_each_channel_in_the_order_of_the_tokens():
    mae, pixels = objective(), images()
    mae.config = mae.config.model_copy(update={"normalize_targets": False})
    target = mae.target(pixels)
    assert target.shape == (2, 3 * 16, 16)
    torch.testing.assert_close(target[1, 16 + 5], pixels[1, 1, 4:8, 4:8].flatten(), atol=0, rtol=0)
