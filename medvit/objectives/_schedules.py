"""Schedules: values that change over the training, by its progress in [0, 1]."""

from __future__ import annotations

import math


def cosine(start: float, end: float, progress: float) -> float:
    """Return the value on half a cosine from `start` to `end`, as in DINO (Caron et al., ICCV 2021)."""
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * min(1.0, max(0.0, progress))))


def warmed(start: float, end: float, warmup: float, progress: float) -> float:
    """Return the value on a line from `start` to `end` over a share `warmup` of the training, then `end`."""
    return end if progress >= warmup else start + (end - start) * progress / warmup
