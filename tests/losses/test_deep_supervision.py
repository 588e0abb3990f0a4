"""The loss over several resolutions weighs each, and its classes are those of the image."""

from __future__ import annotations

import torch

from medvit.losses.deep_supervision import over_levels
from medvit.losses.supervised import segmentation_loss
from medvit.records import IGNORED


def test_one_resolution_has_its_own_loss() -> None:
    logits, targets = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    loss = segmentation_loss()
    assert torch.equal(over_levels(loss, [logits], targets, targets), loss(logits, targets))


def test_each_lower_resolution_weighs_half() -> None:
    """The losses 1, 4 and 16 have the weights 4/7, 2/7 and 1/7."""
    logits = [torch.zeros(1, 2, side, side) for side in (8, 4, 2)]
    targets = torch.zeros(1, 8, 8)
    found = over_levels(lambda each, _: torch.tensor(64.0 / each[0, 0].numel()), logits, targets, targets)
    torch.testing.assert_close(found, torch.tensor((4 * 1 + 2 * 4 + 16) / 7))


def test_classes_at_lower_resolutions_are_those_of_the_padded_image_and_ignored_pixels_stay_ignored() -> None:
    targets = torch.tensor([[0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2], [IGNORED] * 6, [IGNORED] * 6])[None]
    seen: list[torch.Tensor] = []

    def loss(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        seen.append(classes)
        return logits.sum()

    padded = torch.nn.functional.pad(targets[:, None].float(), (0, 2, 0, 0), mode="replicate")[:, 0]
    over_levels(loss, [torch.zeros(1, 3, 4, 6), torch.zeros(1, 3, 2, 4)], targets, padded)
    assert torch.equal(seen[0], targets)
    assert torch.equal(seen[1], torch.tensor([[[0, 1, 2, 2], [IGNORED] * 4]]))
