"""A small backbone and adapters away from where they start, for tests of methods."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from medvit.backbones import Backbone
from medvit.backbones.vit import ViT, VitConfig
from medvit.peft import Peft
from medvit.peft.spt import is_candidate

SMALL = VitConfig(ndim=2, channels=1, patch_size=8, width=32, depth=2, heads=2)
PeftT = TypeVar("PeftT", bound=Peft)


def backbone() -> ViT:
    """A transformer of two blocks, the same at every call."""
    torch.manual_seed(0)
    return SMALL.build().eval()


def moved(peft: PeftT, *, by: float = 0.1) -> PeftT:
    """The method with the trained weights of its backbone changed."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in peft.backbone.parameters():
            if weight.requires_grad:
                weight.add_(by * torch.randn_like(weight))
    return peft


def random_sensitivity(backbone: Backbone) -> dict[str, Tensor]:
    """Sensitivities for SPT, highest in the projections of attention."""
    state = {name: one for name, one in backbone.state_dict().items() if is_candidate(name)}
    return {name: torch.rand_like(one) * (1 + 9 * (".proj." in name)) for name, one in state.items()}
