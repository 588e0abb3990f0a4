"""The laws of the masked autoencoder (He et al., CVPR 2022)."""

import pytest
import torch

from medvit.backbones.vit import VitConfig
from medvit.objectives.mae import MaeConfig, masked_loss, normalized, random_masking
from medvit.types import Views


def small_mae(ndim: int = 2, **options):
    backbone = VitConfig(ndim=ndim, channels=1, patch_size=8, width=64, depth=2, heads=2).build()
    return MaeConfig(decoder_width=64, decoder_depth=1, decoder_heads=2, **options).build(backbone)


def views(ndim: int = 2) -> Views:
    generator = torch.Generator().manual_seed(0)
    return Views(torch.randn(1, 3, 1, *(32,) * ndim, generator=generator))


@pytest.mark.parametrize(
    ("num_patches", "ratio", "kept"), [(196, 0.75, 49), (196, 0.9, 19), (100, 0.9, 9), (2, 0.9, 1)]
)
def test_the_number_of_kept_patches_is_truncated_as_in_the_original(num_patches, ratio, kept):
    masking = random_masking(torch.rand(2, num_patches), ratio)
    assert masking.ids_keep.shape == (2, kept)
    assert masking.mask.sum(dim=1).tolist() == [num_patches - kept] * 2


def test_restoring_the_order_undoes_the_shuffle():
    noise = torch.rand(4, 30)
    masking = random_masking(noise, 0.5)
    for row, (keep, mask) in enumerate(zip(masking.ids_keep, masking.mask, strict=True)):
        assert set(keep.tolist()) == set(torch.nonzero(mask == 0).flatten().tolist()), row


def test_the_loss_ignores_visible_patches():
    predicted, target = torch.randn(2, 6, 5, requires_grad=True), torch.randn(2, 6, 5)
    mask = torch.tensor([[1.0, 0, 1, 0, 0, 1], [0, 1, 0, 0, 1, 1]])
    masked_loss(predicted, target, mask).backward()
    assert predicted.grad[mask == 0].abs().max() == 0
    assert predicted.grad[mask == 1].abs().min() > 0


def test_the_loss_is_the_mean_squared_error_of_the_hidden_patches():
    predicted, target = torch.randn(1, 4, 3), torch.randn(1, 4, 3)
    mask = torch.tensor([[1.0, 0, 0, 1]])
    by_hand = (predicted - target)[0, [0, 3]].square().mean()
    torch.testing.assert_close(masked_loss(predicted, target, mask), by_hand)


def test_normalized_targets_have_zero_mean_and_unit_unbiased_variance():
    patches = normalized(torch.randn(2, 5, 64) * 7 + 3)
    torch.testing.assert_close(patches.mean(-1), torch.zeros(2, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(patches.var(-1), torch.ones(2, 5), atol=1e-4, rtol=0)


@pytest.mark.parametrize("ndim", [2, 3])
def test_hidden_pixels_do_not_reach_the_encoder(ndim):
    mae = small_mae(ndim).eval()
    batch = views(ndim)
    torch.manual_seed(3)
    predicted, _, masking = mae.reconstruct(batch.crops[0])
    hidden = masking.mask[..., None].bool()
    from medvit.transforms.patches import patchify, unpatchify

    size = mae.backbone.patch_size
    changed = torch.where(hidden, torch.tensor(9.0), patchify(batch.crops[0], size))
    torch.manual_seed(3)
    again, _, _ = mae.reconstruct(unpatchify(changed, size, batch.crops[0].shape[2:]))
    torch.testing.assert_close(predicted, again, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_loss_falls_below_the_variance_of_the_target(ndim):
    torch.manual_seed(0)
    mae = small_mae(ndim, normalize_targets=False, mask_ratio=0.5)
    ramp = torch.linspace(-1, 1, 32)
    pixels = (ramp[:, None] + ramp if ndim == 2 else ramp[:, None, None] + ramp[:, None] + ramp).expand(
        4, 1, *(32,) * ndim
    )
    batch = Views(pixels[None].clone())
    optimizer = torch.optim.AdamW(mae.parameters(), lr=2e-3, fused=True)
    for _ in range(60):
        optimizer.zero_grad()
        loss = mae(batch, 0.5).total
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5 * pixels.var().item()


def test_every_weight_of_the_encoder_gets_a_gradient():
    mae = small_mae()
    mae(views(), 0.0).total.backward()
    without = [name for name, weight in mae.backbone.named_parameters() if weight.requires_grad and weight.grad is None]
    assert without == []


def test_pictures_show_original_seen_and_rebuilt():
    figure = small_mae().eval().pictures(views())["reconstruction"]
    assert [axes.get_title() for axes in figure.axes[:3]] == ["image", "seen by the encoder", "rebuilt"]
