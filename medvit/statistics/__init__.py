"""Statistics of results: intervals and tests, over patients rather than images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """Metric with its 95 % interval; NaN if undefined."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return "not defined" if np.isnan(self.value) else f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"
