"""Classes that are not annotated are part of the background: the loss does not distinguish them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from medvit.losses.partial_labels import as_annotated, marginal
from medvit.losses.supervised import segmentation_loss
from medvit.records import IGNORED

ALL = torch.tensor([[True, True, True]] * 2)
ONLY_A = torch.tensor([[True, True, False]] * 2)


def drawn(num_classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 6, 6, generator=generator)
    return logits, torch.randint(0, num_classes, (2, 6, 6), generator=generator)


@pytest.mark.parametrize("ignored", [False, True])
def test_with_all_classes_annotated_it_is_the_full_loss(ignored: bool) -> None:
    logits, targets = drawn()
    targets[:, :2] = IGNORED if ignored else targets[:, :2]
    loss = segmentation_loss()
    torch.testing.assert_close(loss(marginal(logits, ALL), targets), loss(logits, targets), rtol=0, atol=0)


@pytest.mark.parametrize("ignored", [False, True])
def test_with_a_class_never_annotated_it_is_the_loss_of_a_model_without_the_class(ignored: bool) -> None:
    logits, targets = drawn(num_classes=2)
    targets[:, :2] = IGNORED if ignored else targets[:, :2]
    without = torch.stack([logits[:, [0, 2]].logsumexp(dim=1), logits[:, 1]], dim=1)
    loss = segmentation_loss()
    torch.testing.assert_close(loss(marginal(logits, ONLY_A), targets), loss(without, targets))


def test_probability_that_moves_between_background_and_unknown_classes_changes_no_loss() -> None:
    logits, targets = drawn(num_classes=2)
    merged = logits[:, [0, 2]].logsumexp(dim=1)
    share = torch.rand(merged.shape, generator=torch.Generator().manual_seed(1))
    moved = torch.stack([merged + share.log(), logits[:, 1], merged + (1 - share).log()], dim=1)
    loss = segmentation_loss()
    torch.testing.assert_close(loss(marginal(moved, ONLY_A), targets), loss(marginal(logits, ONLY_A), targets))


def test_an_image_without_any_annotated_class_has_no_gradient() -> None:
    logits, targets = drawn(num_classes=1)
    logits.requires_grad_()
    segmentation_loss()(marginal(logits, torch.tensor([[True, False, False]] * 2)), targets).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), rtol=0, atol=1e-7)


def test_three_classes_are_learned_from_images_that_annotate_one_each() -> None:
    truth = torch.randint(0, 3, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    annotated = torch.tensor([[True, True, False], [True, False, True]])
    partial, loss = as_annotated(truth, annotated), segmentation_loss()
    scores = torch.zeros(3, 3, requires_grad=True)  # the logits of a pixel, by its true class
    optimizer = torch.optim.Adam([scores], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        logits = (F.one_hot(truth, 3).float() @ scores).movedim(-1, 1)
        loss(marginal(logits, annotated), partial).backward()
        optimizer.step()
    assert scores.argmax(dim=1).tolist() == [0, 1, 2]


def test_predictions_of_unknown_classes_count_as_background() -> None:
    found = torch.tensor([[0, 1, 2], [0, 1, 2]])
    assert as_annotated(found, torch.tensor([[True, True, False], [True] * 3])).tolist() == [[0, 1, 0], [0, 1, 2]]
