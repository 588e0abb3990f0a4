"""Regions of classes give the label map back, or are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medvit.errors import ConfigError
from medvit.inference.predictor import mask_on_grid, regions_on_grid
from medvit.transforms.regions import Regions

CLASSES = ("background", "edema", "core", "enhancing")
TUMOR = {"tumor": ("edema", "core", "enhancing"), "center": ("core", "enhancing"), "enhancing": ("enhancing",)}
ORDER = ("edema", "core", "enhancing")


def test_the_true_regions_of_a_label_map_give_the_label_map() -> None:
    labels = torch.randint(0, 4, (2, 5, 6), generator=torch.Generator().manual_seed(0))
    regions = Regions.of(TUMOR, ORDER, CLASSES)
    inside = torch.stack([torch.isin(labels, torch.tensor(one)) for one in regions.members], dim=1).float()
    assert torch.equal(regions.label_map(inside), labels)
    assert np.array_equal(regions_on_grid(inside[0], (5, 6), regions), labels[0])


def test_a_later_region_writes_over_those_before_it_whether_they_contain_it_or_not() -> None:
    found = Regions.of(TUMOR, ORDER, CLASSES).label_map(
        torch.tensor([[[0.9, 0.9, 0.4], [0.1, 0.9, 0.4], [0.2, 0.1, 0.6]]])
    )
    assert found.tolist() == [[1, 2, 3]]


def test_one_region_on_another_grid_is_the_mask_of_two_classes_there() -> None:
    probability = torch.rand(6, 7, generator=torch.Generator().manual_seed(0))
    regions = Regions.of({"a": ["a"]}, ["a"], ["background", "a"])
    expected = mask_on_grid(torch.stack([1 - probability, probability]), (11, 9))
    assert np.array_equal(regions_on_grid(probability[None], (11, 9), regions), expected)


@pytest.mark.parametrize(
    ("regions", "order", "message"),
    [
        ({"tumor": ["edema", "tumour"]}, ["edema"], "name 'tumour'; expected foreground classes of the dataset: edema"),
        ({"all": ["background", "edema"]}, ["edema"], "name 'background'"),
        ({"tumor": ORDER}, ["edema"], "pixels of the class core would become edema"),
        ({"edema": ["edema"], "core": ["core"]}, ["edema", "core"], "enhancing would become background"),
        (dict(reversed(TUMOR.items())), ORDER, "pixels of the class edema would become enhancing"),
    ],
)
def test_regions_that_do_not_give_every_class_are_refused(
    regions: dict[str, list[str]], order: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Regions.of(regions, order, CLASSES)
