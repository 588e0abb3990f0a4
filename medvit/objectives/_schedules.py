"""Schedules: values that change with the training progress in [0, 1]."""

from __future__ import annotations

import math


def cosine(start: float, end: float, progress: float) -> float:
    """Return the value on half a cosine from `start` to `end`, as in DINO (Caron et al., ICCV 2021)."""
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * min(1.0, max(0.0, progress))))


def warmed(start: float, end: float, warmup: float, progress: float) -> float:
    """Return a value that changes linearly from `start` to `end` over the fraction `warmup`, then remains `end`."""
    return end if progress >= warmup else start + (end - start) * progress / warmup
