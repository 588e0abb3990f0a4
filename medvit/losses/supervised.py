"""Losses for fine-tuning: cross-entropy for images, Dice plus cross-entropy for voxels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from medvit.errors import DataError
from medvit.records import IGNORED

Loss = Callable[[Tensor, Tensor], Tensor]


def classification_loss(class_counts: Sequence[int], *, smoothing: float, balanced: bool) -> Loss:
    """Return the cross-entropy loss for logits (B, L) and class indices (B,).

    `balanced` weights each class by its inverse frequency, so that all classes count equally.

    Raises:
        DataError: If a class to be balanced has no example.
    """
    weight = inverse_frequencies(class_counts) if balanced else None

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        on_device = None if weight is None else weight.to(logits.device)
        return F.cross_entropy(logits.float(), targets, weight=on_device, label_smoothing=smoothing)

    return loss


def inverse_frequencies(class_counts: Sequence[int]) -> Float[Tensor, "l"]:
    """Return the inverse frequency of each class, divided by the number of classes: weights that balance classes.

    Raises:
        DataError: If a class has no example.
    """
    counts = torch.tensor(class_counts, dtype=torch.float32)
    if (counts == 0).any():
        raise DataError("a class has no training example; exclude it or set balance=off")
    return counts.sum() / (len(counts) * counts)


def segmentation_loss() -> Loss:
    """Return the sum of soft Dice (foreground classes, over the batch) and cross-entropy.

    It applies to logits (B, L, *S) and classes (B, *S). Dice over the batch rather than over each image is stable if a
    crop has few pixels of a class (Isensee et al. 2021). Pixels of the class `IGNORED` do not count.
    """
    from monai.losses.dice import DiceCELoss, DiceLoss

    how = {"include_background": False, "batch": True, "smooth_nr": 1e-5}
    combined = DiceCELoss(**how, to_onehot_y=True, softmax=True)
    of_counted = DiceLoss(**how)

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        logits, num_classes = logits.float(), logits.shape[1]
        counted = targets != IGNORED
        if num_classes > IGNORED or counted.all():
            value: Tensor = combined(logits, targets[:, None])
            return value
        known = F.one_hot(targets.where(counted, 0), num_classes).movedim(-1, 1) * counted[:, None]
        dice: Tensor = of_counted(logits.softmax(dim=1) * counted[:, None], known.to(logits.dtype))
        if not counted.any():
            return dice + 0.0 * logits.sum()
        return dice + F.cross_entropy(logits, targets, ignore_index=IGNORED)

    return loss
