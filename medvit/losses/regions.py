"""Loss of overlapping regions: soft Dice plus binary cross-entropy of each region."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from medvit.losses.supervised import Loss
from medvit.records import IGNORED


def regions_loss(members: Sequence[Sequence[int]], num_classes: int) -> Loss:
    """Return the sum of soft Dice (over the batch) and binary cross-entropy, each the mean over regions.

    It applies to logits (B, R, *S) of regions and classes (B, *S). `members` lists the classes in each region. Pixels
    of the class `IGNORED` do not count (Isensee et al., BrainLes 2020).
    """
    from monai.losses.dice import DiceLoss

    dice = DiceLoss(batch=True, smooth_nr=1e-5)
    inside = torch.tensor([[number in one for one in members] for number in range(num_classes)], dtype=torch.float32)

    def loss(logits: Tensor, targets: Tensor, progress: float = 0.0) -> Tensor:
        logits = logits.float()
        counted = targets != IGNORED if num_classes <= IGNORED else torch.ones_like(targets, dtype=torch.bool)
        truth = inside.to(logits.device)[targets.where(counted, 0)].movedim(-1, 1)
        weights = counted[:, None].to(logits.dtype)
        overlap: Tensor = dice(logits.sigmoid() * weights, truth * weights)
        each = F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * weights
        return overlap + each.sum() / (weights.sum() * len(members)).clamp(min=1.0)

    return loss
