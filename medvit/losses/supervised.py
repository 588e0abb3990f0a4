"""Losses for fine-tuning: cross-entropy for images, Dice plus cross-entropy for voxels."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from medvit.losses.class_balance import ClassBalance
from medvit.records import IGNORED


class Loss(Protocol):
    """Loss function of logits and targets; `progress` is the share of the training steps that are done."""

    def __call__(self, logits: Tensor, targets: Tensor, progress: float = 0.0) -> Tensor:
        """Return the loss of a batch."""
        ...


def classification_loss(balance: ClassBalance, *, smoothing: float) -> Loss:
    """Return the cross-entropy loss for logits (B, L) and class indices (B,), with a correction of class imbalance."""
    offsets = None if balance.offsets is None else torch.tensor(balance.offsets, dtype=torch.float32)

    def loss(logits: Tensor, targets: Tensor, progress: float = 0.0) -> Tensor:
        logits = logits.float() if offsets is None else logits.float() + offsets.to(logits.device)
        found = balance.weights(progress)
        weights = None if found is None else torch.tensor(found, dtype=torch.float32, device=logits.device)
        return F.cross_entropy(logits, targets, weight=weights, label_smoothing=smoothing)

    return loss


def segmentation_loss() -> Loss:
    """Return the loss function of logits (B, L, *S) and classes (B, *S): soft Dice loss plus cross-entropy.

    Dice is computed over the whole batch: it is then stable if a crop has few pixels of a class (Isensee et al. 2021).
    Pixels of the class `IGNORED` do not count. Dice is the mean over the foreground classes that are possible in an
    image of the batch. Classes that are not annotated (`medvit.losses.partial_labels`) have logits of -inf, and are
    impossible.
    """
    from monai.losses.dice import DiceCELoss, DiceLoss

    how = {"include_background": False, "batch": True, "smooth_nr": 1e-5}
    combined = DiceCELoss(**how, to_onehot_y=True, softmax=True)
    of_counted = DiceLoss(**how, reduction="none")

    def loss(logits: Tensor, targets: Tensor, progress: float = 0.0) -> Tensor:
        logits, num_classes = logits.float(), logits.shape[1]
        counted = targets != IGNORED if num_classes <= IGNORED else torch.ones_like(targets, dtype=torch.bool)
        possible = (logits.flatten(2)[..., 0] != -torch.inf).any(dim=0)
        if counted.all() and possible.all():
            value: Tensor = combined(logits, targets[:, None])
            return value
        known = F.one_hot(targets.where(counted, 0), num_classes).movedim(-1, 1) * counted[:, None]
        probabilities = logits.softmax(dim=1) * counted[:, None]
        each: Tensor = of_counted(probabilities, known.to(logits.dtype)).flatten()
        dice = each[possible[1:]].mean() if possible[1:].any() else 0.0 * probabilities.sum()
        if not counted.any():
            return dice + 0.0 * probabilities.sum()
        return dice + F.cross_entropy(logits, targets, ignore_index=IGNORED)

    return loss
