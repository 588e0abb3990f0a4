"""A label map by bricks is the one of the whole volume, and its memory does not grow with the length of the volume."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from monai.inferers.utils import sliding_window_inference
from torch import Tensor
from torch.nn import functional as F

from medvit.inference.memory.bricks import _Planes, label_map_by_bricks, slabs
from medvit.inference.predictor import mask_on_grid, regions_on_grid
from medvit.models.image import Model, ModelConfig
from medvit.transforms.regions import Regions

ROI = (16, 8, 16)


def small_model(**options: object) -> Model:
    torch.manual_seed(0)
    config = ModelConfig.parse(
        {
            "kind": "segmentation",
            "backbone": {"name": "vit", "ndim": 3, "channels": 1, "patch_size": 8, "width": 12, "depth": 4, "heads": 2},
            "peft": {"name": "full"},
            "head": {"name": "dense", "channels": 4},
            "classes": ("background", "liver", "spleen"),
            "roi": ROI,
            **options,
        }
    )
    return Model(config, config.backbone.build()).eval().requires_grad_(False)


def smooth(shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn((1, 1, *(max(2, side // 6) for side in shape)), generator=generator)
    return F.interpolate(coarse, size=shape, mode="trilinear", align_corners=False)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(16, 8, 16), (23, 17, 40), (50, 8, 19)])
@pytest.mark.parametrize("at_once", [1, 3])
def test_slabs_together_are_the_sliding_window_of_monai(axis: int, shape: tuple[int, ...], at_once: int) -> None:
    def predict(crops: Tensor) -> Tensor:  # depends on the place in the window, so that weights matter
        ramp = torch.linspace(0, 1, crops.shape[-1])
        return torch.cat([crops * ramp, crops + crops.mean((2, 3, 4), keepdim=True)], dim=1)

    pixels = smooth(shape)
    expected = sliding_window_inference(pixels, ROI, 2, predict, overlap=0.5, mode="gaussian")
    parts = list(slabs(predict, pixels, ROI, 0.5, axis=axis, at_once=at_once))
    assert [start for start, _ in parts] == np.cumsum([0, *(one.shape[1] for _, one in parts[:-1])]).tolist()
    found = torch.cat([one for _, one in parts], dim=1).movedim(1, axis + 1)
    torch.testing.assert_close(found, expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("num_in", "num_out"), [(10, 10), (10, 33), (33, 10), (1, 7), (7, 1)])
@pytest.mark.parametrize("depth", [1, 3, 50])
def test_planes_are_those_of_torch(num_in: int, num_out: int, depth: int) -> None:
    values = torch.randn((2, num_in, 3, 4), generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(values[None], size=(num_out, 3, 4), mode="trilinear", align_corners=False)[0]
    planes, found = _Planes(num_in, num_out), []
    for start in range(0, num_in, depth):
        for begin, brick in planes.ready(values[:, start : start + depth]):
            assert begin == sum(one.shape[1] for one in found)
            found.append(brick)
    torch.testing.assert_close(torch.cat(found, dim=1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(30, 12, 70), (10, 6, 40)])
@pytest.mark.parametrize("shape", [(30, 12, 70), (61, 20, 90)])
def test_the_label_map_is_that_of_the_whole_volume(size: tuple[int, ...], shape: tuple[int, ...]) -> None:
    model, pixels = small_model(), smooth(size)
    expected = mask_on_grid(model.predict(pixels)[0], shape)
    found = label_map_by_bricks(model, pixels, shape, mask_on_grid, roi=ROI, windows_at_once=1)
    assert found.dtype == expected.dtype
    assert len(np.unique(expected)) > 1
    assert np.mean(found == expected) > 0.9999


def test_regions_are_those_of_the_whole_volume() -> None:
    options = {
        "regions": {"organs": ("liver", "spleen"), "dark": ("spleen",)},
        "regions_class_order": ("liver", "spleen"),
    }
    model, pixels = small_model(**options), smooth((20, 12, 50))
    regions = model.config.region_map
    assert isinstance(regions, Regions)
    on_grid = partial(regions_on_grid, regions=regions)
    expected = on_grid(model.predict(pixels)[0], (20, 12, 50))
    found = label_map_by_bricks(model, pixels, (20, 12, 50), on_grid, roi=ROI, windows_at_once=2)
    assert np.mean(found == expected) > 0.9999


CODE = """
import resource, sys
import torch
from medvit.inference.memory.bricks import label_map_by_bricks
from medvit.inference.predictor import mask_on_grid
from tests.inference.memory.test_bricks import small_model
torch.set_num_threads(1)
names = ("background", *(f"organ {n}" for n in range(20)))
model = small_model(classes=names, overlap=0.0)
length = int(sys.argv[1])
options = {"roi": (16, 8, 16), "windows_at_once": 1}
label_map_by_bricks(model, torch.randn(1, 1, 32, 32, 64), (64, 64, 128), mask_on_grid, **options)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
label_map_by_bricks(model, torch.randn(1, 1, 32, 32, length), (64, 64, 2 * length), mask_on_grid, **options)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_probabilities_of_a_long_volume() -> None:
    found = subprocess.run([sys.executable, "-c", CODE, "1500"], capture_output=True, text=True, check=True)
    grown_mib = int(found.stdout) / 1024
    whole_mib = 21 * 32 * 32 * 1500 * 4 / 2**20  # of one copy, on the grid of the model
    label_map_mib = 64 * 64 * 3000 / 2**20
    assert grown_mib < label_map_mib + 0.25 * whole_mib
