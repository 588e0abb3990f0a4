"""Ignored pixels change no loss; each lower resolution counts half as much as the next higher one."""

from __future__ import annotations

import torch

from medvit.losses.supervised import segmentation_loss
from medvit.records import IGNORED


def test_the_loss_of_pixels_that_do_not_count_is_that_of_an_image_without_them() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 8, generator=generator)
    targets = torch.randint(0, 3, (2, 8, 8), generator=generator)
    cut = torch.cat([targets[:, :5], torch.full((2, 3, 8), IGNORED)], dim=1)
    loss = segmentation_loss()
    torch.testing.assert_close(loss(logits, cut), loss(logits[:, :, :5], targets[:, :5]))


def test_an_image_without_a_pixel_that_counts_has_no_gradient() -> None:
    logits = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    segmentation_loss()(logits, torch.full((1, 4, 4), IGNORED)).backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_ignored_pixels_have_no_gradient_and_all_others_have_one() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 8, generator=generator, requires_grad=True)
    targets = torch.randint(0, 3, (2, 8, 8), generator=generator)
    is_ignored = torch.rand(2, 8, 8, generator=generator) < 0.5
    segmentation_loss()(logits, targets.masked_fill(is_ignored, IGNORED)).backward()
    assert logits.grad is not None
    gradients = logits.grad.movedim(1, -1)
    assert not gradients[is_ignored].any()
    assert gradients[~is_ignored].any(dim=-1).all()
