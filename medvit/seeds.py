"""Derivation of one random seed from several numbers."""

from __future__ import annotations

import numpy as np


def mixed_seed(*parts: int) -> int:
    """Return one seed derived from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])
