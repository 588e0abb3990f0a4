"""Block expansion: exactly the old model at first, only new blocks trained, the old domain kept."""

import copy

import pytest
import torch

from medvit.backbones.vit import VitConfig
from medvit.errors import ConfigError
from medvit.peft.block_expansion import BlockExpansionConfig
from medvit.peft.full import FullConfig

LAYOUT = {"ndim": 2, "channels": 1, "patch_size": 8, "width": 32, "depth": 6, "heads": 2}
PIXELS = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(1))


def backbone(**options):
    torch.manual_seed(0)
    return VitConfig(**LAYOUT | options).build()


@pytest.mark.parametrize("added", [1, 2, 3, 6])
@pytest.mark.parametrize(
    "options", [{}, {"layer_scale": 0.5}, {"positions": "rope", "layer_scale": 0.5}, {"mlp": "swiglu"}]
)
def test_the_expanded_model_is_the_old_one_bit_for_bit(added, options):
    before = backbone(**options)(PIXELS)
    grown = BlockExpansionConfig(added=added).adapt(backbone(**options)).backbone
    after = grown(PIXELS)
    assert grown.depth == len(grown.blocks) == 6 + added
    assert torch.equal(after.patches, before.patches)
    assert torch.equal(after.prefix, before.prefix)


def test_zeroing_attention_alone_would_not_do():
    before = backbone()(PIXELS).patches
    grown = BlockExpansionConfig(num_blocks=1).adapt(backbone()).backbone
    grown.blocks[6].mlp.load_state_dict(grown.blocks[5].mlp.state_dict())
    assert float((grown(PIXELS).patches - before).detach().abs().max()) > 0.1


def test_new_blocks_follow_their_group_and_alone_learn():
    peft = BlockExpansionConfig(num_blocks=3).adapt(backbone())
    assert {name.split(".")[1] for name in peft.trained()} == {"2", "5", "8"}
    learned = peft.backbone.blocks[2]
    peft.backbone(PIXELS).patches.square().sum().backward()
    assert float(learned.attn.proj.weight.grad.abs().max()) > 0
    assert float(learned.mlp.fc2.weight.grad.abs().max()) > 0
    assert peft.backbone.blocks[0].attn.proj.weight.grad is None


def test_blocks_that_cannot_be_shared_out_are_refused():
    with pytest.raises(ConfigError, match=r"peft\.num_blocks is 4; expected a divisor of the backbone's 6 blocks"):
        BlockExpansionConfig(num_blocks=4).adapt(backbone())


def learn(model, head, pixels, targets, weights, steps: int) -> None:
    optimizer = torch.optim.AdamW(weights, lr=3e-3, fused=True)
    for _ in range(steps):
        loss = torch.nn.functional.mse_loss(head(model(pixels).prefix[:, 0]), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_what_was_learned_before_is_forgotten_less_than_by_training_all():
    """Two toy domains with their own targets; the error on the first after learning the second, old head kept."""
    generator = torch.Generator().manual_seed(3)
    pixels = [torch.randn(32, 1, 16, 16, generator=generator) + shift for shift in (0.0, 2.0)]
    targets = [torch.randn(32, 4, generator=generator) for _ in range(2)]
    first, head = backbone(), torch.nn.Linear(32, 4)
    learn(first, head, pixels[0], targets[0], [*first.parameters(), *head.parameters()], 60)
    errors = {}
    for way in (FullConfig(), BlockExpansionConfig(num_blocks=2)):
        model = way.adapt(copy.deepcopy(first)).backbone
        other = torch.nn.Linear(32, 4)
        learn(model, other, pixels[1], targets[1], [w for w in model.parameters() if w.requires_grad], 30)
        errors[way.name] = float(torch.nn.functional.mse_loss(head(model(pixels[0]).prefix[:, 0]), targets[0]).detach())
    assert errors["block_expansion"] < errors["full"]
