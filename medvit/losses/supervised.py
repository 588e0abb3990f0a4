"""Losses of fine-tuning: cross-entropy for images, Dice with cross-entropy for voxels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from medvit.errors import DataError

Loss = Callable[[Tensor, Tensor], Tensor]


def classification_loss(class_counts: Sequence[int], *, smoothing: float, balanced: bool) -> Loss:
    """Cross-entropy of logits (B, L) and class indices (B,).

    `balanced` weighs each class by the inverse of its frequency, so that each counts as much in all.

    Raises:
        DataError: If a class to be balanced has no example.
    """
    counts = torch.tensor(class_counts, dtype=torch.float32)
    if balanced and (counts == 0).any():
        raise DataError("a class has no training example; leave it out or set balance=none")
    weight = counts.sum() / (len(counts) * counts) if balanced else None

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        on_device = None if weight is None else weight.to(logits.device)
        return F.cross_entropy(logits.float(), targets, weight=on_device, label_smoothing=smoothing)

    return loss


def segmentation_loss() -> Loss:
    """Soft Dice of the foreground classes over the batch plus cross-entropy, of logits (B, L, *S) and classes (B, *S).

    Dice over the batch rather than the image is stable where a crop holds little of a class (Isensee et al. 2021).
    """
    from monai.losses.dice import DiceCELoss

    combined = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True, smooth_nr=1e-5)

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        value: Tensor = combined(logits.float(), targets[:, None])
        return value

    return loss
