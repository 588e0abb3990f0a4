"""Written out or fused, attention is the same."""

import pytest
import torch
from torch.nn import functional as F

from medvit.backbones.attention import MAX_WRITTEN_OUT
from medvit.backbones.vit import VitConfig


def tokens_of(vit: torch.nn.Module, pixels: torch.Tensor, *, half: bool) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        return vit(pixels).patches.float()


@pytest.mark.parametrize("positions", ["sincos", "rope"])
def test_in_16_bits_on_a_cpu_features_stay_what_they_are_in_32(positions):
    torch.manual_seed(0)
    vit = VitConfig(size="micro", ndim=2, channels=1, positions=positions).build()
    pixels = torch.randn(2, 1, 64, 64)
    exact, rounded = (tokens_of(vit, pixels, half=half) for half in (False, True))
    assert (rounded - exact).norm() / exact.norm() < 0.02  # of 8 bits of mantissa


@pytest.mark.parametrize(("half", "side", "fused"), [(False, 64, 1), (True, 64, 0), (True, 320, 1)])
def test_it_is_written_out_on_a_cpu_in_16_bits_for_few_tokens_alone(half, side, fused, monkeypatch):
    calls = []
    own = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *args, **more: calls.append(1) or own(*args, **more))
    vit = VitConfig(size="micro", depth=1, ndim=2, channels=1).build()
    assert (side // 16) ** 2 + 1 <= MAX_WRITTEN_OUT or fused
    tokens_of(vit, torch.zeros(1, 1, side, side), half=half)
    assert len(calls) == fused
