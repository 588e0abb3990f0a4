"""Tokens that are not requested are not computed to the end, which does not change the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medvit.backbones.vit import VitConfig

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "layer scale": {"layer_scale": 0.3},
    "swiglu": {"mlp": "swiglu", "layer_scale": 0.3},
    "rotary": {"positions": "rope", "registers": 2, "layer_scale": 0.3},
    "no prefix": {"class_token": False},
    "memory saved": {"save_memory": True},
    "paths dropped": {"drop_path": 0.6, "layer_scale": 0.3},
    "rotary, paths dropped": {"positions": "rope", "drop_path": 0.6},
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_wanted_tokens_and_their_gradients_are_those_among_all(options: dict[str, Any]) -> None:
    config = {"ndim": 2, "channels": 1, "width": 32, "depth": 3, "heads": 2, "patch_size": 4, **options}
    backbone = VitConfig.parse(config).build().train()
    pixels = torch.randn(6, 1, 12, 8)
    patches, grid = backbone.embed(pixels)
    wanted = torch.rand(6, backbone.num_prefix_tokens + patches.shape[1]) < 0.4
    wanted[2] = False  # an image without requested tokens
    found, gradients = [], []
    for way in ("some", "all"):
        torch.manual_seed(1)
        patches, _ = backbone.embed(pixels)
        tokens = (
            backbone.encode_some(patches, grid=grid, wanted=wanted)
            if way == "some"
            else backbone.encode(patches, grid=grid)[wanted]
        )
        backbone.zero_grad()
        (tokens * torch.arange(len(tokens))[:, None]).sum().backward()
        found.append(tokens.detach())
        gradients.append(
            torch.cat([weight.grad.flatten() for weight in backbone.parameters() if weight.grad is not None])
        )
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_only_wanted_tokens_go_through_the_last_mlp() -> None:
    backbone = VitConfig(ndim=2, channels=1, width=32, depth=2, heads=2, patch_size=4).build()
    seen: list[tuple[int, ...]] = []
    for block in backbone.blocks:
        block.mlp.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))
    patches, grid = backbone.embed(torch.randn(3, 1, 8, 8))
    wanted = torch.zeros(3, 5, dtype=torch.bool)
    wanted[:, 0] = True
    assert backbone.encode_some(patches, grid=grid, wanted=wanted).shape == (3, 32)
    assert seen == [(3, 5, 32), (3, 32)]
