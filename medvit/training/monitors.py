"""Readings of a representation while it is learned: k nearest neighbors, without any training.

What is asked of the neighbors depends on what the data set knows: the class of an image; else the tissue of a patch,
from masks; else which image a crop was cut from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from medvit.backbones import Backbone
from medvit.config import Config, Count
from medvit.dataset import Samples
from medvit.manifest import Manifest
from medvit.samples import Sample
from medvit.training.start import Start
from medvit.transforms.patches import patchify
from medvit.transforms.preprocess import resize, resize_mask
from medvit.transforms.views import ViewsConfig, cut, draw

TEMPERATURE = 0.07
"""Of the votes of neighbors (Caron et al., ICCV 2021)."""


class MonitorConfig(Config):
    """What is read of a representation after each round."""

    knn_images: int = Field(default=48, ge=0)
    """Images in the bank of neighbors, and as many queries at most; 0 turns the reading off."""
    knn_neighbors: Count = 20
    """Neighbors that vote."""
    knn_label: str = "label"
    """Key of the manifest's labels that neighbors are asked for, where images have it."""


@dataclass(frozen=True)
class Probe:
    """Images to read a representation on. `question` says what neighbors are asked for."""

    question: Literal["class", "tissue", "image"]
    bank: tuple[Tensor, ...]
    queries: tuple[Tensor, ...]
    bank_labels: Int[Tensor, "n"]
    query_labels: Int[Tensor, "m"]
    num_neighbors: int

    @torch.no_grad()
    def score(self, backbone: Backbone) -> float:
        """Balanced accuracy of the vote of the nearest neighbors by cosine, in [0, 1]."""
        features = patch_features if self.question == "tissue" else image_features
        was_training = backbone.training
        backbone.eval()
        bank, queries = (torch.cat([features(backbone, p) for p in images]) for images in (self.bank, self.queries))
        backbone.train(was_training)
        votes = knn_vote(bank, self.bank_labels, queries, self.num_neighbors)
        return balanced_accuracy(votes.argmax(dim=1), self.query_labels)


def image_features(backbone: Backbone, pixels: Float[Tensor, "c *s"]) -> Float[Tensor, "1 d"]:
    """Unit-norm class token, or mean patch token of a backbone without one."""
    tokens = backbone(pixels[None].to(next(backbone.parameters()).device))
    feature = tokens.prefix[:, 0] if backbone.num_prefix_tokens else tokens.patches.mean(dim=1)
    return F.normalize(feature.float(), dim=-1).cpu()


def patch_features(backbone: Backbone, pixels: Float[Tensor, "c *s"]) -> Float[Tensor, "n d"]:
    """Unit-norm patch tokens."""
    tokens = backbone(pixels[None].to(next(backbone.parameters()).device))
    return F.normalize(tokens.patches[0].float(), dim=-1).cpu()


def knn_vote(
    bank: Float[Tensor, "n d"], labels: Int[Tensor, "n"], queries: Float[Tensor, "m d"], num_neighbors: int
) -> Float[Tensor, "m l"]:
    """Votes of the nearest neighbors for each class, weighted by exp(cosine / temperature)."""
    similarity, nearest = (queries @ bank.T).topk(min(num_neighbors, len(bank)), dim=1)
    weights = (similarity / TEMPERATURE).exp()
    votes = torch.zeros(len(queries), int(labels.max()) + 1)
    return votes.scatter_add_(1, labels[nearest], weights)


def balanced_accuracy(predicted: Int[Tensor, "m"], truth: Int[Tensor, "m"]) -> float:
    """Mean over the classes of the share of their members that are recognized."""
    hits = (predicted == truth).float()
    return float(torch.stack([hits[truth == label].mean() for label in truth.unique()]).mean())


def build_probe(
    config: MonitorConfig, manifest: Manifest, start: Start, views: ViewsConfig, *, seed: int
) -> Probe | None:
    """A probe on the training images and, for the queries, the validation images of a manifest.

    None where the reading is off or there are fewer than two images.
    """
    usable = manifest.filter(lambda row: row.kind == start.preprocess.kind)
    chosen = [_some(usable, split, config.knn_images, seed) for split in ("train", "val")]
    bank, queries = (Samples(part, start.preprocess) for part in chosen)
    if config.knn_images == 0 or len(bank) < 2:
        return None
    size = views.size
    if len(queries) and all(config.knn_label in row.labels for part in chosen for row in part):
        return _class_probe(config, bank, queries, size)
    if len(queries) and all(row.mask for part in chosen for row in part):
        return _tissue_probe(config, bank, queries, size, start.backbone.patch_size)
    return _image_probe(bank, views, size, seed)


def _some(manifest: Manifest, split: str, count: int, seed: int) -> Manifest:
    part = manifest.filter(lambda row: row.split == split)
    order = np.random.default_rng(seed).permutation(len(part))[:count]
    chosen = {part.rows[i].image_id for i in order}
    return part.filter(lambda row: row.image_id in chosen)


def _class_probe(config: MonitorConfig, bank: Samples, queries: Samples, size: tuple[int, ...]) -> Probe:
    names = sorted({row.labels[config.knn_label] for part in (bank, queries) for row in part.manifest})
    labels = [
        torch.tensor([names.index(row.labels[config.knn_label]) for row in part.manifest]) for part in (bank, queries)
    ]
    pixels = [_sized(part, size) for part in (bank, queries)]
    return Probe("class", pixels[0], pixels[1], labels[0], labels[1], config.knn_neighbors)


def _tissue_probe(
    config: MonitorConfig, bank: Samples, queries: Samples, size: tuple[int, ...], patch_size: tuple[int, ...]
) -> Probe:
    labels = [torch.cat([_patch_labels(sample, size, patch_size) for sample in _all(part)]) for part in (bank, queries)]
    pixels = [_sized(part, size) for part in (bank, queries)]
    return Probe("tissue", pixels[0], pixels[1], labels[0], labels[1], config.knn_neighbors)


def _image_probe(bank: Samples, views: ViewsConfig, size: tuple[int, ...], seed: int) -> Probe:
    generator = np.random.default_rng(seed)
    crops: tuple[list[Tensor], list[Tensor]] = ([], [])
    for sample in _all(bank):
        for part in crops:
            part.append(cut(sample.pixels, draw(views, sample.pixels.shape[1:], generator), size))
    labels = torch.arange(len(bank))
    return Probe("image", tuple(crops[0]), tuple(crops[1]), labels, labels, 1)


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
