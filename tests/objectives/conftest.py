"""Tiny backbones and views for objectives with a teacher."""

import pytest
import torch

from medvit.backbones.vit import VitConfig
from medvit.registry import find
from medvit.types import Views

HEAD = {"hidden": 32, "bottleneck": 16, "prototypes": 24}


@pytest.fixture
def make():
    """Builds an objective by name over a tiny backbone."""

    def build(name: str, *, ndim: int = 2, backbone: dict | None = None, **options):
        torch.manual_seed(0)
        tiny = {"ndim": ndim, "channels": 1, "patch_size": 8, "width": 32, "depth": 2, "heads": 2}
        config = find("medvit.objectives", name).parse(options)
        return config.build(VitConfig(**(tiny | (backbone or {}))).build())

    return build


@pytest.fixture
def views():
    """Random views: two global, some local."""

    def build(ndim: int = 2, *, num_images: int = 3, num_local: int = 2, side: int = 32) -> Views:
        generator = torch.Generator().manual_seed(1)
        crops = torch.randn(2, num_images, 1, *(side,) * ndim, generator=generator)
        local = torch.randn(num_local, num_images, 1, *(side // 2,) * ndim, generator=generator)
        return Views(crops, local if num_local else None)

    return build


@pytest.fixture
def head():
    """Options of a tiny head."""
    return dict(HEAD)
