"""Deep supervision: the loss over logits at several resolutions (Lee et al., AISTATS 2015)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from medvit.losses.supervised import Loss


def over_levels(loss: Loss, logits: Sequence[Tensor], targets: Tensor, padded: Tensor) -> Tensor:
    """Return the weighted mean of a loss over logits of several resolutions (deep supervision).

    The first of `logits` (B, L, *S) has the resolution of the image and is compared with `targets` (B, *S). All others
    have ever lower resolutions and cover the image padded to whole patches, with the classes `padded` (B, *T); the
    class of a cell is that of its nearest pixel. The weight halves from each resolution to the next lower one (Isensee
    et al. 2021).
    """
    highest, *lower = logits
    if not lower:
        return loss(highest, targets)
    cells, total = padded[:, None].float(), loss(highest, targets)
    for power, level in enumerate(lower, start=1):
        classes = F.interpolate(cells, size=level.shape[2:], mode="nearest-exact")[:, 0].to(targets.dtype)
        total = total + loss(level, classes) / 2**power
    return total / sum(2.0**-power for power in range(len(logits)))
