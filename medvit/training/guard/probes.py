"""Probes that evaluate a representation during training, on a fixed set of images with labels.

The labels depend on the dataset. If images have classes, the label is the class of an image. Else, if there are label
maps, it is the tissue of a patch. Otherwise, it is the study of an image: the nearest neighbor of an image should be
another image, or another crop, of the same study.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from medvit.backbones import Backbone
from medvit.config import Config, Count
from medvit.embeddings.probe_metrics import knn_vote, ridge_logits, standard_error
from medvit.metrics.balanced_accuracy import shares_of_balanced_accuracy
from medvit.metrics.effective_rank import effective_rank
from medvit.metrics.mean_cosine import mean_cosine
from medvit.objectives import Objective
from medvit.records import Row
from medvit.training.guard import NAN, ProbeReading
from medvit.types import Tokens, Views

AT_ONCE = 8, 64
"""Minimum and maximum number of images in a forward pass of a probe evaluation."""
POINTS_AT_ONCE = 2**17
"""Maximum number of pixels or voxels in a forward pass (32 images of 64 x 64), unless `AT_ONCE` requires more images.
"""
MASKED_IMAGES = 16
"""Number of images per batch for the reconstruction error and the teacher's entropy; the entropy is that of one batch.
"""
MAX_PATCHES = 16384
"""Maximum number of patches to compare in the bank, and in the queries. They are drawn at random, equally many from
each image.
"""
FEWEST_LABELED = 16
"""Minimum number of labeled queries for a class probe if some images have no label, as after merging datasets."""


class ProbeConfig(Config):
    """Simple classifiers (probes) that evaluate the features of the backbone before training and after each epoch."""

    knn_images: int = Field(default=256, ge=0)
    """Number of images that a probe classifies. Its reference is the same number of other, labeled images. More images
    reveal smaller differences. The value 0 turns off the probes and the guard.
    """
    knn_neighbors: Count = 20
    """Number of nearest neighbors that vote for the label of an image."""
    knn_label: str = "label"
    """Label that the probes predict: a label of the dataset, or a recorded attribute such as sex. The score measures
    how well the features predict it.
    """

    def answer(self, row: Row) -> str | None:
        """Return the value of the label `knn_label` of an image; None if the image does not have this label."""
        return row.labels.get(self.knn_label) or row.attributes.get(self.knn_label)


@dataclass(frozen=True)
class Probe:
    """Images on which a representation is evaluated: a bank of labeled images, and query images.

    `question` names the kind of labels. `views` are training crops on which an objective with a reconstruction or a
    teacher is evaluated.
    """

    question: Literal["class", "tissue", "study"]
    bank: tuple[Tensor, ...]
    queries: tuple[Tensor, ...]
    bank_labels: Int[Tensor, "n"]
    query_labels: Int[Tensor, "m"]
    num_neighbors: int
    views: tuple[Views, ...] = ()
    patches: tuple[Int[Tensor, "n p"], Int[Tensor, "m p"]] | None = None
    """Indices of the patches to compare in each bank image and in each query image, in label order; None unless tissue
    is compared.
    """

    @torch.no_grad()
    def read(self, objective: Objective, step: int, progress: float) -> ProbeReading:
        """Return the probe evaluation of an objective and its backbone, which both remain unchanged.

        Call it under autocast, so that forward passes are as fast as in mixed-precision training.
        """
        modes = [(module, module.training) for module in objective.modules()]
        objective.eval()
        try:
            chosen = self.patches or (None, None)
            bank, queries = (
                self._features(objective, self.bank, chosen[0]),
                self._features(objective, self.queries, chosen[1]),
            )
            error, entropy = self._of_objective(objective, progress)
        finally:
            for module, mode in modes:
                module.training = mode
        # The forward passes use the precision of training; metrics of the features do not.
        with torch.autocast("cpu", enabled=False):
            return self._reading(objective, step, bank, queries, error, entropy)

    def _reading(
        self, objective: Objective, step: int, bank: _Features, queries: _Features, error: float, entropy: float
    ) -> ProbeReading:
        near = self._hits(bank, queries, is_linear=False)
        is_linear = objective.judged_by == "reconstruction"
        # One image per class is too little for a linear probe, so the reconstruction error is used.
        is_scored = not (is_linear and self.question == "study")
        hits = self._hits(bank, queries, is_linear=True) if is_linear and is_scored else near
        knn, score = float(near.sum()), float(hits.sum()) if is_scored else NAN
        together = torch.cat([bank.images, queries.images])
        return ProbeReading(
            step,
            score=score,
            noise=standard_error(knn if math.isnan(score) else score, len(self.queries)),
            hits=tuple(hits.tolist()),
            rank=effective_rank(together),
            cosine=mean_cosine(together),
            entropy=entropy,
            reconstruction=error,
            knn=knn,
            images=len(together),
        )

    def _features(self, objective: Objective, images: Sequence[Tensor], chosen: Tensor | None) -> _Features:
        parts, count = [], min(max(POINTS_AT_ONCE // images[0][0].numel(), AT_ONCE[0]), AT_ONCE[1])
        for start in range(0, len(images), count):
            found, wide, patches = _features(objective, torch.stack(list(images[start : start + count])))
            if chosen is not None:
                places = chosen[start : start + count, :, None].expand(-1, -1, patches.shape[-1])
                patches = patches.gather(1, places)
            # Patches are compared only for tissue, and are many.
            parts.append((found, wide, patches.flatten(0, 1) if self.question == "tissue" else patches[:0, 0]))
        return _Features(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def _hits(self, bank: _Features, queries: _Features, *, is_linear: bool) -> Float[Tensor, "m"]:
        """Predict the labels of the queries from the bank, by nearest neighbors or a linear probe.

        Return the contribution of each query image to the balanced accuracy.
        """
        of_patches = self.question == "tissue"
        known, asked = (
            part.patches if of_patches else part.wide if is_linear else part.images for part in (bank, queries)
        )
        if not (torch.isfinite(known).all() and torch.isfinite(asked).all()):
            return torch.zeros(len(self.queries), dtype=torch.float64)
        answers = (
            ridge_logits(known, self.bank_labels, asked)
            if is_linear
            else knn_vote(known, self.bank_labels, asked, self.num_neighbors)
        )
        shares = shares_of_balanced_accuracy(self.query_labels.numpy(), answers.argmax(dim=1).numpy())
        return torch.from_numpy(shares).unflatten(0, (len(self.queries), -1)).sum(dim=1)

    def _of_objective(self, objective: Objective, progress: float) -> tuple[float, float]:
        """Return the reconstruction error and the teacher's entropy.

        Each value is NaN if the objective does not have it.
        """
        is_rebuilt = objective.judged_by == "reconstruction"
        device = next(objective.parameters()).device
        devices = [device] if device.type == "cuda" else []
        errors, entropy = [], NAN
        with torch.random.fork_rng(devices):
            torch.manual_seed(0)
            for number, views in enumerate(self.views if is_rebuilt else self.views[:1]):
                total = float(objective(objective.received(views.to(device)), progress).total)
                errors += [total] * views.crops.shape[1]
                if number == 0:
                    entropy = float(objective.readings().get("teacher_entropy", NAN))
        return sum(errors) / len(errors) if errors and is_rebuilt else NAN, entropy


@dataclass(frozen=True)
class _Features:
    """Features of images: `images` (N, D) for nearest neighbors, and `wide` (N, E) for a linear probe.

    `patches` (N * P, D) are the features of single patches.
    """

    images: Float[Tensor, "n d"]
    wide: Float[Tensor, "n e"]
    patches: Float[Tensor, "p d"]


def _features(objective: Objective, pixels: Float[Tensor, "b c *s"]) -> tuple[Tensor, Tensor, Tensor]:
    backbone: Backbone = objective.backbone
    tokens: Tokens = backbone(pixels.to(next(backbone.parameters()).device))
    patches = tokens.patches.float().cpu()
    mean = patches.mean(dim=1)
    first = tokens.prefix[:, 0].float().cpu() if backbone.num_prefix_tokens else mean
    images = mean if objective.judged_by == "reconstruction" else first
    return F.normalize(images, dim=-1), torch.cat([first, mean], dim=1), patches
