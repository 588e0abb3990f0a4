"""ChannelViT: one channel is an ordinary ViT, missing channels have no influence, the order of channels is free."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from medvit.backbones.channel_vit import ChannelViT, ChannelVitConfig
from medvit.backbones.vit import VitConfig
from medvit.channels import draw_channels, fill_missing, mark_missing, present_channels
from medvit.errors import ConfigError, DataError
from medvit.peft import train_new_channels
from medvit.peft.frozen import FrozenConfig
from medvit.peft.lora import LoraConfig
from medvit.registry import find, names
from tests.peft.small import random_sensitivity

NAMES = ("FLAIR", "T1", "T2")
SMALL = {"patch_size": 4, "width": 48, "depth": 3, "heads": 2}


def channel_vit(ndim: int = 2, channels: int = 3, **options: object) -> ChannelViT:
    torch.manual_seed(0)
    names = NAMES[:channels]
    model = ChannelVitConfig(ndim=ndim, channels=channels, channel_names=names, **SMALL | options).build().eval()
    torch.nn.init.normal_(model.channel_embed)
    return model


def images(count: int = 2, channels: int = 3, ndim: int = 2) -> torch.Tensor:
    return torch.randn(count, channels, *(8, 12, 8)[:ndim], generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("positions", ["sincos", "learned", "rope"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_with_one_channel_and_the_weights_of_a_vit_it_is_that_vit(ndim, positions, tmp_path):
    options = SMALL | {"heads": 4, "ndim": ndim, "positions": positions, "image_size": 16}
    vit = VitConfig(channels=1, **options).build().eval()
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    weights = {"weights": str(tmp_path / "vit.safetensors"), "weights_grid": (4,) * ndim}
    model = ChannelVitConfig(channels=1, **options, **weights).build().eval()
    assert model.fit.missing == ("channel_embed",)
    pixels = images(channels=1, ndim=ndim)
    for ours, theirs in zip(model.intermediate(pixels, [0, 1]), vit.intermediate(pixels, [0, 1]), strict=True):
        assert torch.equal(ours.prefix, theirs.prefix)
        assert torch.equal(ours.patches, theirs.patches)


def test_kernels_of_a_vit_with_several_channels_are_summed(tmp_path):
    vit = VitConfig(ndim=2, channels=3, **SMALL).build().eval()
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    model = ChannelVitConfig(ndim=2, channels=1, weights=str(tmp_path / "vit.safetensors"), **SMALL).build().eval()
    gray = images(channels=1)
    torch.testing.assert_close(model(gray).prefix, vit(gray.expand(-1, 3, -1, -1)).prefix, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", ["sincos", "rope"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_a_channel_that_an_image_lacks_has_no_influence(ndim, positions):
    """An image among others without channels gives what its channels alone give to a model that has no others."""
    model = channel_vit(ndim, positions=positions)
    present = torch.tensor([[True, False, True], [True, True, True], [False, True, False]])
    pixels = images(3, ndim=ndim)
    found = model(mark_missing(pixels, present))
    others = model(mark_missing(pixels.where(present.reshape(3, 3, *(1,) * ndim), 1e6), present))
    assert torch.equal(found.prefix, others.prefix)
    for number, here in enumerate(present):
        alone = channel_vit(ndim, int(here.sum()), positions=positions)
        state = model.state_dict()
        alone.load_state_dict(state | {"channel_embed": state["channel_embed"][:, here]})
        expected = alone(pixels[number : number + 1, here])
        torch.testing.assert_close(found.prefix[number], expected.prefix[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.patches[number], expected.patches[0], atol=1e-5, rtol=1e-5)


def test_the_order_of_the_channels_does_not_matter():
    model, pixels, order = channel_vit(), images(), torch.tensor([2, 0, 1])
    other = channel_vit()
    other.load_state_dict(model.state_dict() | {"channel_embed": model.channel_embed[:, order]})
    found, turned = model(pixels), other(pixels[:, order])
    torch.testing.assert_close(found.prefix, turned.prefix, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.patches, turned.patches, atol=1e-5, rtol=1e-5)


def test_m_channels_give_m_tokens_per_patch_inside_and_one_outside():
    model, pixels = channel_vit(), images()
    assert model.embed(pixels)[0].shape == (2, 3 * 6, 48)
    lengths: list[int] = []
    model.blocks[0].register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    tokens = model(mark_missing(pixels, torch.tensor([[True, False, True]] * 2)))
    assert lengths == [1 + 2 * 6]
    assert tokens.grid == (2, 3)
    assert tokens.patches.shape == (2, 6, 48)


def test_an_image_without_any_channel_is_refused():
    with pytest.raises(DataError, match="none of the 3 channels"):
        channel_vit()(mark_missing(images(), torch.tensor([[True] * 3, [False] * 3])))


def test_channel_sampling_hides_channels_in_training_only():
    model, pixels = channel_vit(), images()
    assert model.sampled(pixels) is pixels
    model.train()
    torch.manual_seed(0)
    counts = [int(present_channels(model.sampled(pixels)).sum(dim=1)[0]) for _ in range(600)]
    shares = torch.bincount(torch.tensor(counts), minlength=4)[1:] / len(counts)
    assert shares.tolist() == pytest.approx([1 / 3] * 3, abs=0.06)
    assert channel_vit(channel_sampling=False).train().sampled(pixels) is pixels


def test_every_image_keeps_one_of_its_channels():
    present = torch.eye(4, dtype=torch.bool)
    for seed in range(20):
        torch.manual_seed(seed)
        assert torch.equal(draw_channels(present), present)


def test_missing_channels_are_those_that_are_not_a_number_anywhere():
    pixels = images()
    pixels[0, 1, 0, 0] = torch.nan
    assert present_channels(pixels).all()
    marked = mark_missing(pixels, torch.tensor([[True, True, False], [True, True, True]]))
    assert present_channels(marked).tolist() == [[True, True, False], [True, True, True]]
    assert not fill_missing(marked)[0, 2].any()
    assert fill_missing(marked)[0, 1, 0, 0].isnan()


@pytest.mark.parametrize("name", sorted(set(names("medvit.peft")) - {"continue"}))
def test_every_adapter_merges_and_is_rebuilt_with_missing_channels(name):
    pixels = mark_missing(images(), torch.tensor([[True, False, True], [True, True, True]]))
    way, plain = find("medvit.peft", name)(), channel_vit()
    plain.sensitivity = random_sensitivity(plain)  # for SPT
    before = plain(pixels).patches
    peft = way.adapt(plain)
    if way.IS_IDENTITY:
        torch.testing.assert_close(peft.backbone.eval()(pixels).patches, before, atol=1e-5, rtol=1e-5)
    torch.manual_seed(2)
    with torch.no_grad():
        for trained in peft.trained():
            weight = peft.backbone.get_parameter(trained)
            weight += 0.05 * torch.randn(weight.shape)
    adapted = peft.backbone.eval()(pixels).patches
    assert adapted.isfinite().all()
    described = peft.described(ChannelVitConfig(ndim=2, channels=3, channel_names=NAMES, **SMALL))
    rebuilt = described.build().eval()
    rebuilt.load_state_dict(peft.merge().state_dict())
    torch.testing.assert_close(rebuilt(pixels).patches, adapted, atol=1e-4, rtol=1e-4)


def test_embeddings_of_channels_that_a_file_lacks_are_trained_beside_an_adapter(tmp_path):
    vit = VitConfig(ndim=2, channels=1, **SMALL).build()
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    config = ChannelVitConfig(ndim=2, channels=3, weights=str(tmp_path / "vit.safetensors"), **SMALL)
    for way, is_trained in ((LoraConfig(), True), (FrozenConfig(), False)):
        peft = way.adapt(config.build())
        train_new_channels(peft.backbone)
        assert ("channel_embed" in peft.trained()) is is_trained
    assert "channel_embed" not in LoraConfig().adapt(channel_vit()).trained()


def test_a_twin_of_the_other_dimensionality_is_refused():
    with pytest.raises(ConfigError, match="only 2D or only 3D"):
        channel_vit().of_other_rank((4, 4, 4), 1)
