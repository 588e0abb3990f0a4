"""The loss of regions is that of classes where they agree, and each region counts alike."""

from __future__ import annotations

import pytest
import torch

from medvit.losses.regions import regions_loss
from medvit.losses.supervised import segmentation_loss
from medvit.records import IGNORED

MEMBERS = ((1, 2), (2,))


@pytest.mark.parametrize("ignored", [False, True])
def test_a_region_of_the_only_class_has_the_loss_of_two_classes(ignored: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(2, 1, 6, 6, generator=generator), torch.randint(0, 2, (2, 6, 6), generator=generator)
    targets[:, :2] = IGNORED if ignored else targets[:, :2]
    of_classes = segmentation_loss()(torch.cat([torch.zeros_like(logits), logits], dim=1), targets)
    torch.testing.assert_close(regions_loss([(1,)], 2)(logits, targets), of_classes)


def test_it_is_the_mean_of_the_losses_of_each_region_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(2, 2, 6, 6, generator=generator), torch.randint(0, 3, (2, 6, 6), generator=generator)
    alone = [regions_loss([one], 3)(logits[:, [n]], targets) for n, one in enumerate(MEMBERS)]
    torch.testing.assert_close(regions_loss(MEMBERS, 3)(logits, targets), torch.stack(alone).mean())


def test_it_vanishes_for_certain_true_regions() -> None:
    targets = torch.randint(0, 3, (1, 6, 6), generator=torch.Generator().manual_seed(0))
    truth = torch.stack([torch.isin(targets, torch.tensor(one)) for one in MEMBERS], dim=1)
    assert regions_loss(MEMBERS, 3)(40.0 * (2.0 * truth - 1.0), targets) < 1e-6
    assert regions_loss(MEMBERS, 3)(40.0 * (1.0 - 2.0 * truth), targets) > 40.0


def test_ignored_pixels_have_no_gradient_and_all_others_have_one() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 8, 8, generator=generator, requires_grad=True)
    targets = torch.randint(0, 3, (2, 8, 8), generator=generator)
    is_ignored = torch.rand(2, 8, 8, generator=generator) < 0.5
    regions_loss(MEMBERS, 3)(logits, targets.masked_fill(is_ignored, IGNORED)).backward()
    assert logits.grad is not None
    gradients = logits.grad.movedim(1, -1)
    assert not gradients[is_ignored].any()
    assert gradients[~is_ignored].all()
    logits.grad = None
    regions_loss(MEMBERS, 3)(logits, torch.full_like(targets, IGNORED)).backward()
    assert not logits.grad.any()
