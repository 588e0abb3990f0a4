"""Correction of class imbalance: weights of classes, offsets of logits, and draw probabilities, from class counts.

Each method changes one of these three. Published methods for long-tailed data are logit adjustment (Menon et al., ICLR
2021), deferred re-weighting (Cao et al., NeurIPS 2019, by the effective numbers of Cui et al., CVPR 2019) and
repeat-factor sampling (Gupta et al., CVPR 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.errors import DataError

Balance = Literal["loss", "sampler", "logits", "deferred", "repeat", "off"]

DEFERRED_FROM = 0.8
"""Share of the steps after which `deferred` weights the classes, as published (epoch 160 of 200)."""
EFFECTIVE_BETA = 0.9999
"""Beta of the effective number of images, (1 - beta^n) / (1 - beta), as published for deferred re-weighting."""


@dataclass(frozen=True)
class ClassBalance:
    """Method of correction, and the number of training images of each class.

    Raises:
        DataError: If the method changes the loss or the logits, and a class has no training image.
    """

    method: Balance
    counts: Sequence[int]

    def __post_init__(self) -> None:
        if self.method in ("loss", "logits", "deferred") and not all(self.counts):
            raise DataError(
                f"a class has no training example, which balance={self.method} requires; exclude it or set balance=off"
            )

    def weights(self, progress: float) -> Float[Array, "l"] | None:
        """Return the weight of each class in the loss; None for equal weights.

        `progress` is the share of the training steps that are done. The weights of `deferred` have the mean 1 over
        classes; those of `loss` have the mean 1 over images.
        """
        counts = np.array(self.counts, dtype=float)
        if self.method == "loss":
            return np.asarray(counts.sum() / (len(counts) * counts))
        if self.method == "deferred" and progress >= DEFERRED_FROM:
            inverse = (1.0 - EFFECTIVE_BETA) / (1.0 - EFFECTIVE_BETA**counts)
            return np.asarray(inverse * len(counts) / inverse.sum())
        return None

    @property
    def offsets(self) -> Float[Array, "l"] | None:
        """Offsets that are added to the logits in training: log frequencies of the classes; None for other methods.

        They are not added in prediction: its probabilities are those of equally frequent classes.
        """
        counts = np.array(self.counts, dtype=float)
        return np.log(counts / counts.sum()) if self.method == "logits" else None

    @property
    def odds(self) -> Float[Array, "l"] | None:
        """Relative probability of drawing an image of each class; None if all images are equally probable.

        With `sampler`, it is the inverse of the number of images of the class. With `repeat`, it is the repeat factor
        max(1, sqrt(t / f)) of a class with the frequency f. The threshold t is 1 / L: classes that are rarer than in a
        balanced set of L classes are repeated.
        """
        counts = np.maximum(np.array(self.counts, dtype=float), 1.0)  # a class without images is never drawn
        if self.method == "sampler":
            return 1.0 / counts
        if self.method == "repeat":
            return np.maximum(1.0, np.sqrt(sum(self.counts) / (len(counts) * counts)))
        return None
