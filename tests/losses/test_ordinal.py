"""Loss and probabilities of ordered grades."""

import pytest
import torch
from torch.nn import functional as F

from medvit.errors import DataError
from medvit.losses.class_balance import ClassBalance
from medvit.losses.ordinal import grade_probabilities, ordinal_loss

LOGITS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


def test_the_loss_is_the_cross_entropy_of_each_threshold_on_the_images_that_reach_it():
    targets = torch.tensor([0, 1, 2, 3, 3, 0])
    total, number = torch.zeros(()), 0
    for grade in range(3):
        reaches = targets >= grade
        exceeds = (targets[reaches] > grade).float()
        total = total + F.binary_cross_entropy_with_logits(LOGITS[reaches, grade], exceeds, reduction="sum")
        number += int(reaches.sum())
    loss = ordinal_loss(ClassBalance("off", [2, 1, 1, 2]))
    torch.testing.assert_close(loss(LOGITS, targets), total / number)


def test_the_loss_grows_with_the_distance_from_the_true_grade():
    certain_of_0 = torch.full((1, 3), -4.0)
    loss = ordinal_loss(ClassBalance("off", [1, 1, 1, 1]))
    sums = [loss(certain_of_0, torch.tensor([grade])) * min(grade + 1, 3) for grade in range(4)]
    assert sums == sorted(sums)
    assert sums[0] < 0.02 < sums[1]


def test_balanced_grades_count_as_if_each_was_equally_frequent():
    few, many = torch.tensor([0, 0, 1, 2, 2, 3]), torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    of_many = LOGITS[[0, 1, 2, 2, 3, 4, 5, 5]]
    balanced = ordinal_loss(ClassBalance("loss", [2, 1, 2, 1]))(LOGITS, few)
    torch.testing.assert_close(balanced, ordinal_loss(ClassBalance("off", [2, 2, 2, 2]))(of_many, many))
    with pytest.raises(DataError, match="a class has no training example"):
        ordinal_loss(ClassBalance("loss", [2, 0, 1]))


def test_probabilities_of_grades_add_up_to_those_of_exceeding_a_grade():
    found = grade_probabilities(LOGITS)
    assert found.shape == (6, 4)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(dim=1), torch.ones(6))
    for grade in range(3):
        exceeds = found[:, grade + 1 :].sum(dim=1)
        torch.testing.assert_close(exceeds, LOGITS[:, : grade + 1].sigmoid().prod(dim=1))
