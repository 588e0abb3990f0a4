"""Images on which a representation is read while it is learned, and what is asked of it there.

That depends on what the data set knows: the class of an image; else the tissue of a patch, from masks; else which study
an image is of, as another image or crop of the same study must find it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from medvit.backbones import Backbone
from medvit.config import Config, Count
from medvit.metrics.balanced_accuracy import balanced_accuracy
from medvit.objectives import Objective
from medvit.records import Row
from medvit.training.guard import NAN, ProbeReading
from medvit.training.guard.probe_metrics import effective_rank, knn_vote, mean_cosine, ridge_logits, standard_error
from medvit.types import Tokens, Views

AT_ONCE = 8
"""Images a forward pass of a reading."""
MASKED_IMAGES = 16
"""Images at most on which an error of reconstruction, or an entropy, is read."""
FEWEST_LABELED = 16
"""Labeled queries that are enough to ask for classes, where other images, as of other datasets, have no label."""


class ProbeConfig(Config):
    """What is read of a representation before the first step and after each round."""

    knn_images: int = Field(default=48, ge=0)
    """Images in the bank of neighbors, and as many queries at most; 0 turns readings, and the guard, off."""
    knn_neighbors: Count = 20
    """Neighbors that vote."""
    knn_label: str = "label"
    """What is asked for, of the images that have it: a key of the manifest's labels, or of its attributes, as sex: how
    well that is told from features says how much of it they hold."""

    def answer(self, row: Row) -> str | None:
        """What an image has under the key."""
        return row.labels.get(self.knn_label) or row.attributes.get(self.knn_label)


@dataclass(frozen=True)
class Probe:
    """Images to read a representation on. `question` says what is asked for; `views` are crops as in training."""

    question: Literal["class", "tissue", "study"]
    bank: tuple[Tensor, ...]
    queries: tuple[Tensor, ...]
    bank_labels: Int[Tensor, "n"]
    query_labels: Int[Tensor, "m"]
    num_neighbors: int
    views: Views | None = None

    @torch.no_grad()
    def read(self, objective: Objective, step: int, progress: float) -> ProbeReading:
        """All figures of an objective and its backbone, which both stay as they are."""
        modes = [(module, module.training) for module in objective.modules()]
        objective.eval()
        try:
            bank, queries = (self._features(objective, images) for images in (self.bank, self.queries))
            error, entropy = self._of_objective(objective, progress)
        finally:
            for module, mode in modes:
                module.training = mode
        knn = self._score(bank, queries, is_linear=False)
        is_linear = objective.judged_by == "reconstruction"
        score = self._score(bank, queries, is_linear=True) if is_linear and self.question != "study" else knn
        if is_linear and self.question == "study":
            score = NAN  # one image of each class is too little for a linear probe, so reconstruction is the judge
        together = torch.cat([bank.images, queries.images])
        return ProbeReading(
            step,
            score=score,
            noise=standard_error(knn if math.isnan(score) else score, len(self.queries)),
            rank=effective_rank(together),
            cosine=mean_cosine(together),
            entropy=entropy,
            reconstruction=error,
            knn=knn,
            images=len(together),
        )

    def _features(self, objective: Objective, images: Sequence[Tensor]) -> _Features:
        parts = [_features(objective, part) for part in _batches(images)]
        return _Features(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def _score(self, bank: _Features, queries: _Features, *, is_linear: bool) -> float:
        of_patches = self.question == "tissue"
        known, asked = (
            part.patches if of_patches else part.wide if is_linear else part.images for part in (bank, queries)
        )
        if not (torch.isfinite(known).all() and torch.isfinite(asked).all()):
            return 0.0
        answers = (
            ridge_logits(known, self.bank_labels, asked)
            if is_linear
            else knn_vote(known, self.bank_labels, asked, self.num_neighbors)
        )
        return balanced_accuracy(self.query_labels.numpy(), answers.argmax(dim=1).numpy())

    def _of_objective(self, objective: Objective, progress: float) -> tuple[float, float]:
        """Error of reconstruction and entropy of the teacher, NaN where the objective has none."""
        if self.views is None:
            return NAN, NAN
        device = next(objective.parameters()).device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(0)
            losses = objective(self.views.to(device), progress)
        error = float(losses.total) if objective.judged_by == "reconstruction" else NAN
        return error, float(objective.readings().get("teacher_entropy", NAN))


@dataclass(frozen=True)
class _Features:
    """Of images: one vector to compare (N, D), one for a linear probe (N, E), and those of patches (N * P, D)."""

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
    return F.normalize(images, dim=-1), torch.cat([first, mean], dim=1), patches.flatten(0, 1)


def _batches(images: Sequence[Tensor]) -> Iterator[Tensor]:
    for start in range(0, len(images), AT_ONCE):
        yield torch.stack(list(images[start : start + AT_ONCE]))
