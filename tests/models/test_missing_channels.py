"""Models with named channels, stacked or with tokens of their own: a missing channel has no influence."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medvit.channels import mark_missing
from medvit.models.image import Model, ModelConfig

SHAPES: dict[int, tuple[int, ...]] = {2: (20, 13), 3: (12, 9, 10)}
PRESENT = torch.tensor([[True, False, True]])
BACKBONES: dict[str, dict[str, Any]] = {
    "vit": {"name": "vit", "width": 24, "depth": 2, "heads": 2, "patch_size": 4},
    "channel_vit": {"name": "channel_vit", "width": 24, "depth": 2, "heads": 2, "patch_size": 4},
}


def backbone_of(name: str, ndim: int) -> dict[str, Any]:
    if name in BACKBONES:
        return BACKBONES[name]
    sides = {
        key: [[side] * ndim for side in each] for key, each in (("strides", (1, 2, 2)), ("kernel_sizes", (3,) * 3))
    }
    return {"name": name, "widths": [4, 8, 8], **sides}


def model(kind: str, ndim: int, backbone: str, head: dict[str, Any]) -> Model:
    torch.manual_seed(0)
    named = {"ndim": ndim, "channels": 3, "channel_names": ["FLAIR", "T1", "T2"]}
    tree = {"kind": kind, "peft": "full", "head": head, "classes": ["a", "b"], "roi": [8] * ndim}
    config = ModelConfig.parse(tree | {"backbone": backbone_of(backbone, ndim) | named})
    return Model(config, config.backbone.build())


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize(
    ("kind", "backbone", "head"),
    [
        ("classification", "vit", "linear"),
        ("classification", "channel_vit", "linear"),
        ("classification", "channel_vit", "attention"),
        ("segmentation", "vit", "dense"),
        ("segmentation", "channel_vit", "dense"),
        ("segmentation", "channel_vit", "unetr"),
        ("segmentation", "channel_vit", "vitdet"),
        ("segmentation", "channel_vit", "meddinov3"),
        ("segmentation", "dynunet", "own"),
    ],
)
def test_values_of_a_missing_channel_have_no_influence(ndim, kind, backbone, head):
    built = model(kind, ndim, backbone, {"name": head}).eval()
    pixels = torch.randn(1, 3, *SHAPES[ndim])
    other = pixels.clone()
    other[:, 1] += 1000.0
    found = built.predict(mark_missing(pixels, PRESENT))
    assert found.isfinite().all()
    assert torch.equal(found, built.predict(mark_missing(other, PRESENT)))
    assert not torch.equal(built.predict(pixels), built.predict(other))


@pytest.mark.parametrize("ndim", [2, 3])
def test_hidden_channels_are_hidden_from_the_stem_of_a_decoder_too(ndim):
    """In training, the same channels are hidden from the tokens and from the convolutions on pixels."""
    built = model("segmentation", ndim, "channel_vit", {"name": "dense", "num_supervised": 1}).train()
    pixels = torch.randn(2, 3, *(8,) * ndim)
    seen: list[torch.Tensor] = []
    built.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    for _ in range(8):
        built(pixels)
    counts = {int(one[0].flatten(1).any(dim=1).sum()) for one in seen}
    assert all(one.isfinite().all() for one in seen)
    assert min(counts) < 3
    loss = sum(level.square().mean() for level in built.at_levels(mark_missing(pixels, PRESENT.expand(2, 3))))
    loss.backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in built.parameters())
