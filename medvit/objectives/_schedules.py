"""Numbers that change over the training, by its share in [0, 1]."""

from __future__ import annotations

import math


def cosine(start: float, end: float, progress: float) -> float:
    """From `start` to `end` along half a cosine, as momentum and weight decay do in DINO (Caron et al., ICCV 2021)."""
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * min(1.0, max(0.0, progress))))


def warmed(start: float, end: float, warmup: float, progress: float) -> float:
    """From `start` to `end` in a straight line over a share `warmup` of the training, then `end`."""
    return end if progress >= warmup else start + (end - start) * progress / warmup
