"""Images on which a representation is read while it is learned, and what is asked of it there.

That depends on what the data set knows: the class of an image; else the tissue of a patch, from masks; else which study
an image is of, as another image or crop of the same study must find it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from medvit.backbones import Backbone
from medvit.config import Config, Count
from medvit.dataset import Samples, are_tiles, some_tiles
from medvit.manifest import Manifest
from medvit.metrics.balanced_accuracy import balanced_accuracy
from medvit.objectives import Objective
from medvit.samples import Row, Sample, Tokens, Views
from medvit.slides import SlidesConfig
from medvit.training.guard import NAN, Reading
from medvit.training.probing import effective_rank, knn_vote, mean_cosine, ridge_logits, standard_error
from medvit.training.start import Start
from medvit.transforms.patches import patchify
from medvit.transforms.preprocess import resize, resize_mask
from medvit.transforms.views import MakeViews, ViewsConfig, collate_views, cut, draw

AT_ONCE = 8
"""Images a forward pass of a reading."""
MASKED_IMAGES = 16
"""Images at most on which an error of reconstruction, or an entropy, is read."""
FEWEST_LABELED = 16
"""Labeled queries that are enough to ask for classes, where other images, as of other datasets, have no label."""


class MonitorConfig(Config):
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


@runtime_checkable
class Rebuilds(Protocol):
    """An objective that rebuilds pixels, as MAE: no loss is on its class token, and neighbors say little of it.

    It is guarded by a linear probe and by its loss on pixels of the probe.
    """

    def reconstruct(self, pixels: Float[Tensor, "b c *s"]) -> object:
        """What is predicted of pixels."""


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
    def read(self, objective: Objective, step: int, progress: float) -> Reading:
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
        is_linear = isinstance(objective, Rebuilds)
        score = self._score(bank, queries, is_linear=True) if is_linear and self.question != "study" else knn
        if is_linear and self.question == "study":
            score = NAN  # one image of each class is too little for a linear probe, so reconstruction is the judge
        together = torch.cat([bank.images, queries.images])
        return Reading(
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
        error = float(losses.total) if isinstance(objective, Rebuilds) else NAN
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
    images = mean if isinstance(objective, Rebuilds) else first
    return F.normalize(images, dim=-1), torch.cat([first, mean], dim=1), patches.flatten(0, 1)


def _batches(images: Sequence[Tensor]) -> Iterator[Tensor]:
    for start in range(0, len(images), AT_ONCE):
        yield torch.stack(list(images[start : start + AT_ONCE]))


def build_probe(
    config: MonitorConfig,
    manifest: Manifest,
    start: Start,
    views: ViewsConfig,
    *,
    seed: int,
    slides: SlidesConfig | None = None,
) -> Probe | None:
    """A probe on the training images and, for the queries, the validation images of a manifest; of slides, on tiles.

    None where the reading is off or there are fewer than two images.
    """
    found = slides or SlidesConfig()
    if are_tiles(manifest, start.preprocess):
        manifest = some_tiles(manifest, found, count=config.knn_images, seed=seed)
    usable = manifest.filter(lambda row: row.kind == start.preprocess.kind)
    bank, queries = _bank_and_queries(usable, config, start, seed, found)
    if config.knn_images == 0 or len(bank) < 2:
        return None
    seen = _views(queries if len(queries) else bank, views, seed)
    labeled = usable.filter(lambda row: config.answer(row) is not None)
    known, asked = _bank_and_queries(labeled, config, start, seed, found)
    enough = len(asked) >= max(1, min(len(queries), FEWEST_LABELED))
    if enough and len({config.answer(row) for row in known.manifest}) > 1:
        return _class_probe(config, known, asked, views.size, seen)
    if len(queries) and all(row.mask for part in (bank, queries) for row in part.manifest):
        return _tissue_probe(config, bank, queries, views.size, start.backbone.patch_size, seen)
    return _study_probe(bank.of(usable.filter(lambda row: row.split == "train")), config, views, seen, seed)


def _bank_and_queries(
    manifest: Manifest, config: MonitorConfig, start: Start, seed: int, slides: SlidesConfig
) -> tuple[Samples, Samples]:
    bank, queries = (_some(manifest, split, config.knn_images, seed) for split in ("train", "val"))
    return Samples(bank, start.preprocess, slides=slides), Samples(queries, start.preprocess, slides=slides)


def _views(samples: Samples, views: ViewsConfig, seed: int) -> Views:
    make = MakeViews(views, samples.preprocess.intensity)
    return collate_views([make(samples[n], seed + n) for n in range(min(len(samples), MASKED_IMAGES))])


def _some(manifest: Manifest, split: str, count: int, seed: int) -> Manifest:
    part = manifest.filter(lambda row: row.split == split)
    order = np.random.default_rng(seed).permutation(len(part))[:count]
    chosen = {part.rows[i].image_id for i in order}
    return part.filter(lambda row: row.image_id in chosen)


def _class_probe(config: MonitorConfig, bank: Samples, queries: Samples, size: tuple[int, ...], views: Views) -> Probe:
    answers = [[config.answer(row) or "" for row in part.manifest] for part in (bank, queries)]
    names = sorted({name for part in answers for name in part})
    labels = [torch.tensor([names.index(name) for name in part]) for part in answers]
    pixels = [_sized(part, size) for part in (bank, queries)]
    return Probe("class", pixels[0], pixels[1], labels[0], labels[1], config.knn_neighbors, views)


def _tissue_probe(
    config: MonitorConfig,
    bank: Samples,
    queries: Samples,
    size: tuple[int, ...],
    patch_size: tuple[int, ...],
    views: Views,
) -> Probe:
    labels = [torch.cat([_patch_labels(sample, size, patch_size) for sample in _all(part)]) for part in (bank, queries)]
    pixels = [_sized(part, size) for part in (bank, queries)]
    return Probe("tissue", pixels[0], pixels[1], labels[0], labels[1], config.knn_neighbors, views)


def _study_probe(train: Samples, config: MonitorConfig, views: ViewsConfig, seen: Views, seed: int) -> Probe:
    """A crop of one image of each study in the bank; queries are of another image of it, or of its only one."""
    pairs = _pairs(train.manifest, config.knn_images, seed)
    generator = np.random.default_rng(seed)
    crops: tuple[list[Tensor], list[Tensor]] = ([], [])
    for rows in pairs:
        for part, row in zip(crops, rows, strict=True):
            sample = train[train.manifest.rows.index(row)]
            part.append(cut(sample.pixels, draw(views, sample.pixels.shape[1:], generator), views.size))
    labels = torch.arange(len(pairs))
    return Probe("study", tuple(crops[0]), tuple(crops[1]), labels, labels, 1, seen)


def _pairs(manifest: Manifest, count: int, seed: int) -> list[tuple[Row, Row]]:
    """Two images of each study, or one twice; studies with several come first.

    They lie a third of the study from each other and from its ends, where slices of a volume show little.
    """
    studies: dict[str, list[Row]] = {}
    for row in manifest:
        studies.setdefault(row.study_id, []).append(row)
    order = np.random.default_rng(seed).permutation(len(studies))
    shuffled = [list(studies.values())[n] for n in order]
    chosen = sorted(shuffled, key=lambda rows: len(rows) == 1)[:count]
    return [(rows[len(rows) // 3], rows[2 * len(rows) // 3]) for rows in chosen]


def _all(samples: Samples) -> list[Sample]:
    return [samples[index] for index in range(len(samples))]


def _sized(samples: Samples, size: tuple[int, ...]) -> tuple[Tensor, ...]:
    return tuple(resize(sample.pixels, size) for sample in _all(samples))


def _patch_labels(sample: Sample, size: tuple[int, ...], patch_size: tuple[int, ...]) -> Int[Tensor, "n"]:
    """The foreground class that covers most of a patch, or background where it covers less than a tenth."""
    assert sample.target is not None
    inside = patchify(resize_mask(sample.target, size)[None, None].float(), patch_size)[0].long()
    shares = F.one_hot(inside, int(inside.max()) + 1).float().mean(dim=1)
    shares[:, 0] = 0.1
    return shares.argmax(dim=1)
