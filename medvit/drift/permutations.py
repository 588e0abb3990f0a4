"""Test of many variables at once for a difference between two sets of patients, by permutation of the patients.

The statistic of a variable is the difference of its means in standard errors. Under the hypothesis that both sets are
from one population, any assignment of the patients to the sets is equally likely. A variable is adjusted by the largest
statistic over all variables in each permutation (Westfall and Young, Resampling-Based Multiple Testing 1993), so that
the chance of any false alarm is at most the level, however many variables there are and however they are correlated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray as Array

LEVEL = 0.01
"""Chance of a false alarm. A monitor that alarmed in one of 20 months without a change would soon be ignored."""
PERMUTATIONS = 2000
AT_ONCE = 500


@dataclass(frozen=True)
class Shift:
    """Difference of a variable between the sets a and b.

    `effect` is the difference of the means (b - a) in standard deviations of both sets together, and `p` its p-value,
    adjusted for all variables.
    """

    name: str
    group: str
    effect: float
    p: float

    @property
    def is_alarm(self) -> bool:
        """Whether the adjusted p-value is at most the level."""
        return self.p <= LEVEL


def permutation_p(
    values: Float[Array, "n v"], is_b: Bool[Array, "n"], *, seed: int, permutations: int = PERMUTATIONS
) -> tuple[Float[Array, "v"], Float[Array, "v"]]:
    """Return the effect of each column, in standard deviations, and its p-value, adjusted for all columns.

    Columns that are constant have the effect 0 and the p-value 1.
    """
    centered = values - values.mean(axis=0)
    deviation = centered.std(axis=0)
    varies = deviation > 1e-9 * np.maximum(np.abs(values).max(axis=0, initial=0.0), 1e-12)
    scaled = np.where(varies, centered / np.where(varies, deviation, 1.0), 0.0)
    effects = _differences(scaled, is_b[None].astype(float))[0]
    observed = np.abs(effects)
    if not varies.any():
        return effects, np.ones(values.shape[1])
    generator = np.random.default_rng(seed)
    exceeded = np.ones(values.shape[1])  # the observed assignment is one of the permutations
    for start in range(0, permutations, AT_ONCE):
        order = np.stack([generator.permutation(is_b) for _ in range(min(AT_ONCE, permutations - start))])
        largest = np.abs(_differences(scaled, order.astype(float))).max(axis=1)
        exceeded += (largest[:, None] >= observed - 1e-12).sum(axis=0)
    adjusted = exceeded / (permutations + 1)
    return effects, np.where(varies, adjusted, 1.0)


def _differences(scaled: Float[Array, "n v"], is_b: Float[Array, "r n"]) -> Float[Array, "r v"]:
    """Return the difference of the means of each column for each assignment; all have the same number in b."""
    num_b = is_b.sum(axis=1, keepdims=True)
    in_b = is_b @ scaled
    return np.asarray(in_b / num_b + in_b / (is_b.shape[1] - num_b))  # the columns sum to 0
