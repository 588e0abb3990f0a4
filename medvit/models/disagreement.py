"""Disagreement of the models of an ensemble, or of passes with dropout, about one image.

The entropy of the mean probabilities is the sum of two parts: the mean entropy of the members, which more models do not
reduce, and the mutual information of class and member, by which the members disagree (Houlsby et al., arXiv 2011;
Depeweg et al., ICML 2018). Members that agree have a mutual information of 0. The unit is the nat. For a number, the
disagreement is the standard deviation of the members.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

TASKS = ("classification", "ordinal", "multilabel", "regression", "slide")
"""Tasks, or kinds of models, for which disagreement is computed."""


@dataclass(frozen=True)
class Disagreement:
    """Entropy and mutual information, one value for all classes or one for each label; or the spread of a number."""

    entropy: Float[Array, "k"] | None = None
    mutual_information: Float[Array, "k"] | None = None
    spread: float | None = None

    @classmethod
    def of(cls, task: str, members: Float[Array, "m l"]) -> Disagreement:
        """Return the disagreement of members: probabilities (M, L) before calibration, or numbers (M, 1)."""
        if task == "regression":
            return cls(spread=float(members.astype(np.float64).std(ddof=1)))
        exact = members.astype(np.float64)
        each = np.stack([1.0 - exact, exact], axis=-1) if task == "multilabel" else exact[:, None, :]  # (M, K, classes)
        total, within = entropy(each.mean(axis=0)), entropy(each).mean(axis=0)
        return cls(total, np.maximum(total - within, 0.0))


def entropy(probabilities: Float[Array, "*k l"]) -> Float[Array, "*k"]:
    """Return the entropy of probabilities over the last axis, in nats (Shannon 1948)."""
    from scipy.special import entr

    found: Array = entr(probabilities).sum(axis=-1)
    return found
