"""Construction of a probe from the training data: its images and labels."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F

from medvit.dataset.manifest import Manifest
from medvit.dataset.samples import Samples, are_tiles, some_tiles
from medvit.records import IGNORED, Row
from medvit.training.guard.probes import FEWEST_LABELED, MASKED_IMAGES, MAX_PATCHES, Probe, ProbeConfig
from medvit.training.initialization import InitialModel
from medvit.transforms.patches import patchify
from medvit.transforms.preprocess import resize, resize_mask
from medvit.transforms.views import MakeViews, ViewsConfig, collate_views, cut, draw
from medvit.types import Sample, Views
from medvit.wsi.locations import SlidesConfig

UNKNOWN = -1
"""Label of a patch that is mostly ignored; it is not compared."""


def build_probe(
    config: ProbeConfig,
    manifest: Manifest,
    start: InitialModel,
    views: ViewsConfig,
    *,
    seed: int,
    slides: SlidesConfig | None = None,
    num_rebuilt: int = MASKED_IMAGES,
) -> Probe | None:
    """Return a probe on the training images and, for the queries, the validation images of a manifest.

    For slides, the images are tiles.

    The training images form the bank, in which the nearest neighbors of each query are found. If there are too few
    validation images, training images of patients outside the bank are queries too. At most `num_rebuilt` images are
    reconstructed. The result is None if probe evaluations are turned off, or if there are fewer than two images.
    """
    found = slides or SlidesConfig()
    if are_tiles(manifest, start.preprocess):
        manifest = some_tiles(manifest, found, count=config.knn_images, seed=seed)
    usable = manifest.filter(lambda row: row.kind == start.preprocess.kind)
    bank, queries = _bank_and_queries(usable, config, start, seed, found)
    if config.knn_images == 0 or len(bank) < 2:
        return None
    seen = _views(queries if len(queries) else bank, views, seed, num_rebuilt)
    labeled = usable.filter(lambda row: config.answer(row) is not None)
    known, asked = _bank_and_queries(labeled, config, start, seed, found)
    enough = len(asked) >= max(1, min(len(queries), FEWEST_LABELED))
    if enough and len({config.answer(row) for row in known.manifest}) > 1:
        return _class_probe(config, known, asked, views.size, seen)
    if len(queries) and all(row.mask and row.annotated is None for part in (bank, queries) for row in part.manifest):
        return _tissue_probe(config, bank, queries, views.size, start.backbone.patch_size, seen, seed)
    return _study_probe(bank.of(usable.filter(lambda row: row.split == "train")), config, views, seen, seed)


def _bank_and_queries(
    manifest: Manifest, config: ProbeConfig, start: InitialModel, seed: int, slides: SlidesConfig
) -> tuple[Samples, Samples]:
    bank = _some(manifest, "train", config.knn_images, seed)
    queries = _some(manifest, "val", config.knn_images, seed)
    if len(queries) and len(queries) < config.knn_images:
        bank, more = _shared_out(manifest, config.knn_images, config.knn_images - len(queries), seed)
        chosen = {row.image_id for part in (queries, more) for row in part}
        queries = manifest.filter(lambda row: row.image_id in chosen)
    return Samples(bank, start.preprocess, slides=slides), Samples(queries, start.preprocess, slides=slides)


def _shared_out(manifest: Manifest, num_bank: int, num_queries: int, seed: int) -> tuple[Manifest, Manifest]:
    """Return training images for the bank and training images for the queries; no patient is in both.

    Patients with at least half of the images are assigned to the bank, for which at most `num_bank` images are drawn.
    """
    images: dict[str, list[str]] = {}
    for row in manifest.filter(lambda row: row.split == "train"):
        images.setdefault(row.patient_id, []).append(row.image_id)
    total = sum(map(len, images.values()))
    patients = [list(images)[n] for n in np.random.default_rng(seed).permutation(len(images))]
    queries: set[str] = set()
    bank: list[str] = []
    for patient in reversed(patients):
        wanted = min(num_queries, total // 2) - len(queries)
        if len(images[patient]) <= wanted:
            queries.update(images[patient])
        else:
            bank += images[patient]
    known = set(np.random.default_rng(seed).permutation(bank)[:num_bank].tolist())
    return manifest.filter(lambda row: row.image_id in known), manifest.filter(lambda row: row.image_id in queries)


def _views(samples: Samples, views: ViewsConfig, seed: int, count: int) -> tuple[Views, ...]:
    make = MakeViews(views, samples.preprocess.intensity)
    made = [make(samples[n], seed + n) for n in range(min(len(samples), count))]
    return tuple(collate_views(made[n : n + MASKED_IMAGES]) for n in range(0, len(made), MASKED_IMAGES))


def _some(manifest: Manifest, split: str, count: int, seed: int) -> Manifest:
    part = manifest.filter(lambda row: row.split == split)
    order = np.random.default_rng(seed).permutation(len(part))[:count]
    chosen = {part.rows[i].image_id for i in order}
    return part.filter(lambda row: row.image_id in chosen)


def _class_probe(
    config: ProbeConfig, bank: Samples, queries: Samples, size: tuple[int, ...], views: tuple[Views, ...]
) -> Probe:
    answers = [[config.answer(row) or "" for row in part.manifest] for part in (bank, queries)]
    names = sorted({name for part in answers for name in part})
    labels = [torch.tensor([names.index(name) for name in part]) for part in answers]
    pixels = [_sized(part, size) for part in (bank, queries)]
    return Probe("class", pixels[0], pixels[1], labels[0], labels[1], config.knn_neighbors, views)


def _tissue_probe(
    config: ProbeConfig,
    bank: Samples,
    queries: Samples,
    size: tuple[int, ...],
    patch_size: tuple[int, ...],
    views: tuple[Views, ...],
    seed: int,
) -> Probe:
    labels = [
        torch.stack([_patch_labels(sample, size, patch_size) for sample in _all(part)]) for part in (bank, queries)
    ]
    chosen = [_some_patches(found != UNKNOWN, seed) for found in labels]
    known, asked = (found.gather(1, places).flatten() for found, places in zip(labels, chosen, strict=True))
    pixels = [_sized(part, size) for part in (bank, queries)]
    return Probe("tissue", pixels[0], pixels[1], known, asked, config.knn_neighbors, views, (chosen[0], chosen[1]))


def _some_patches(is_known: Bool[Tensor, "n q"], seed: int) -> Int[Tensor, "n p"]:
    """Return the indices of the patches to compare in each image, in ascending order.

    They are all patches with a known label, or a random subset of these, of equal size for each image.
    """
    num_images, num_patches = is_known.shape
    fewest = int(is_known.sum(dim=1).min())
    count = max(1, min(num_patches, MAX_PATCHES // num_images, fewest))
    noise = torch.rand(num_images, num_patches, generator=torch.Generator().manual_seed(seed))
    return (noise + ~is_known).argsort(dim=1)[:, :count].sort(dim=1).values


def _study_probe(train: Samples, config: ProbeConfig, views: ViewsConfig, seen: tuple[Views, ...], seed: int) -> Probe:
    """Return a probe in which the label of an image is its study.

    The bank has a crop of one image of each study. The query is a crop of another image of the study, or of the same
    image if the study has only one.
    """
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
    """Return two images of each study; if a study has only one image, this image twice.

    Studies with several images come first. The two images are at one third and two thirds of the study, since slices at
    the ends of a volume show little tissue.
    """
    studies: dict[tuple[str, str], list[Row]] = {}
    for row in manifest:
        studies.setdefault((row.patient_id, row.study_id), []).append(row)
    order = np.random.default_rng(seed).permutation(len(studies))
    shuffled = [list(studies.values())[n] for n in order]
    chosen = sorted(shuffled, key=lambda rows: len(rows) == 1)[:count]
    return [(rows[len(rows) // 3], rows[2 * len(rows) // 3]) for rows in chosen]


def _all(samples: Samples) -> list[Sample]:
    return [samples[index] for index in range(len(samples))]


def _sized(samples: Samples, size: tuple[int, ...]) -> tuple[Tensor, ...]:
    return tuple(resize(sample.pixels, size) for sample in _all(samples))


def _patch_labels(sample: Sample, size: tuple[int, ...], patch_size: tuple[int, ...]) -> Int[Tensor, "n"]:
    """Return the foreground class that covers most of each patch; background if no class covers more than a tenth.

    Where most of a patch is ignored, the label is `UNKNOWN`.
    """
    assert sample.target is not None
    inside = patchify(resize_mask(sample.target, size)[None, None].float(), patch_size)[0].long()
    is_ignored = inside == IGNORED
    known = inside.where(~is_ignored, 0)
    shares = F.one_hot(known, int(known.max()) + 1).float().mean(dim=1)
    shares[:, 0] = 0.1
    return shares.argmax(dim=1).where(is_ignored.float().mean(dim=1) <= 0.5, UNKNOWN)
