"""ExPLoRA: only the declared weights change, few weights are trained, and new ones are fully trained."""

import copy

import pytest
import torch

from medvit.backbones.vit import VitConfig
from medvit.errors import ConfigError
from medvit.peft.explora import ExploraConfig

CONFIG = VitConfig(ndim=2, channels=1, patch_size=8, width=32, depth=4, heads=2, positions="learned", image_size=16)
PIXELS = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))


def backbone():
    torch.manual_seed(0)
    return CONFIG.build()


def step(adapted, count: int = 3) -> None:
    """A few steps of AdamW with weight decay on a loss that reaches every weight."""
    trained = [weight for weight in adapted.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.1, fused=True)
    for _ in range(count):
        tokens = adapted(PIXELS)
        loss = tokens.patches.square().sum() + tokens.prefix.square().sum() + tokens.patches.diff(dim=1).abs().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_after_some_steps_exactly_the_declared_weights_have_changed():
    peft = ExploraConfig(rank=2).adapt(backbone())
    before = copy.deepcopy(peft.backbone.state_dict())
    step(peft.backbone)
    changed = {name for name, weight in peft.backbone.state_dict().items() if not torch.equal(weight, before[name])}
    norms = {f"blocks.{n}.norm{k}.{part}" for n in range(3) for k in (1, 2) for part in ("weight", "bias")}
    updates = {f"blocks.{n}.attn.qkv.lora_{side}.default.weight" for n in range(3) for side in "AB"}
    last = {name for name in before if name.startswith("blocks.3.")}
    assert changed == norms | updates | last | {"norm.weight", "norm.bias"}
    assert changed == peft.trained()
    assert not any("lora" in name for name in last)


def test_merged_weights_reproduce_the_outputs_of_the_adapted_ones():
    peft = ExploraConfig(rank=2).adapt(backbone())
    step(peft.backbone)
    adapted = peft.backbone.eval()(PIXELS).patches
    torch.testing.assert_close(peft.merge().eval()(PIXELS).patches, adapted, atol=1e-5, rtol=0)


def test_start_weights_with_the_adapter_are_the_merged_weights():
    peft = ExploraConfig(rank=2).adapt(backbone())
    step(peft.backbone)
    adapter = peft.state_of(peft.trained())
    merged = peft.merge().state_dict()
    again = ExploraConfig(rank=2).adapt(backbone())
    again.backbone.load_state_dict(adapter, strict=False)
    for name, weight in again.merge().state_dict().items():
        torch.testing.assert_close(weight, merged[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", ["small", "base"])
def test_less_than_a_tenth_of_the_weights_is_trained(size):
    peft = ExploraConfig().adapt(VitConfig(ndim=2, channels=3, size=size).build())
    sizes = [(weight.numel(), weight.requires_grad) for weight in peft.backbone.parameters()]
    assert sum(count for count, trained in sizes if trained) < 0.1 * sum(count for count, _ in sizes)


def test_what_public_weights_lacked_or_had_otherwise_is_trained_whole(tmp_path):
    from safetensors.torch import save_file

    save_file(backbone().state_dict(), tmp_path / "flat.safetensors")
    solid = CONFIG.model_copy(update={"ndim": 3, "registers": 2, "weights": str(tmp_path / "flat.safetensors")})
    trained = ExploraConfig().adapt(solid.build()).trained()
    assert {"patch_embed.proj.weight", "pos_embed", "reg_token"} <= trained
    assert "cls_token" not in trained


@pytest.mark.parametrize("blocks", [(4,), (0, 1, 2, 3), (-5,)])
def test_blocks_that_are_not_there_or_all_of_them_are_refused(blocks):
    with pytest.raises(ConfigError, match=r"expected some but not all of 4, from -4 to 3"):
        ExploraConfig(blocks=blocks).adapt(backbone())
