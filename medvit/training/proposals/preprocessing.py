"""Proposed preprocessing: kind, channels, size or spacing, and normalization."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from medvit.config import Tree
from medvit.dataset.fingerprint import Fingerprint, IntensityStatistics
from medvit.dataset.manifest import Manifest
from medvit.summary import counted
from medvit.tasks import TaskName
from medvit.training.proposals import Proposals
from medvit.training.task import IMAGE_SIZE, LARGEST_CROP, choose_preprocess
from medvit.transforms.preprocess import Normalization, Preprocess

SIMILAR = 1.1
"""Maximum ratio of the largest to the smallest spacing along an axis for which volumes are not resampled."""
FLAT = 3.0
"""Ratio of the coarsest to the finest median spacing, above which volumes are resampled to the 10th percentile rather
than the median of the spacing along the coarsest axis (Isensee et al. 2021).
"""
MIN_DEVIATION = 1e-3
"""Lower bound of the standard deviation by which scaled intensities are divided."""
EACH_CHANNEL = "each named channel gets zero mean and unit variance, since channels have intensities of their own"
Proposed = tuple[Any, str]
"""Proposed value and its reason."""


def propose_preprocess(
    proposals: Proposals, given: Preprocess | None, task: TaskName, training: Manifest
) -> Preprocess:
    """Return the preprocessing of training images: options that are given, and proposals for all others.

    If `kind` is given, nothing is proposed: unset options have their defaults.
    """
    if given is not None and "kind" in given.model_fields_set:
        return given
    base = choose_preprocess(training)
    keys = frozenset() if given is None else given.model_fields_set
    found = {"kind": _kind(base, training), "channels": _channels(base, training)}
    if base.channel_names:
        found["channel_names"] = base.channel_names, "the training images have these named channels"
    if base.kind == "image":
        found["size"] = _size(task, training, is_square="field_of_view" in keys)
        found["intensity"] = _intensity_of_images(base, training, proposals.fingerprint)
    else:
        if "size" not in keys:
            found["spacing_mm"] = _spacing(training)
        found["intensity"] = _intensity_of_volumes(base, proposals.fingerprint)
    tree: Tree = {} if given is None else {key: getattr(given, key) for key in keys}
    for key, (value, reason) in found.items():
        if key not in keys:
            tree[key] = value
            proposals.add(f"preprocess.{key}", value, reason)
    return Preprocess.parse(tree)


def _kind(base: Preprocess, training: Manifest) -> Proposed:
    number = sum(row.kind == base.kind for row in training)
    return base.kind, f"{number} of {len(training)} training images are of this kind"


def _channels(base: Preprocess, training: Manifest) -> Proposed:
    return base.channels, f"training images have at most {counted(max(row.shape[0] for row in training), 'channel')}"


def _size(task: TaskName, training: Manifest, *, is_square: bool) -> Proposed:
    middle = [round(median(sides)) for sides in zip(*(row.shape[1:] for row in training), strict=True)]
    shown = " x ".join(map(str, middle))
    if task != "segmentation":
        return IMAGE_SIZE, f"the median image has {shown} pixels, and public weights expect this size"
    if is_square:
        side = min(*middle, LARGEST_CROP[2])
        return (side, side), f"fields of view are resized to one size, and the median image has {shown} pixels"
    return None, f"label maps keep their detail at the resolution of the images, of {shown} pixels in the median"


def _spacing(training: Manifest) -> Proposed:
    spacings = [row.spacing_mm for row in training if row.spacing_mm is not None and row.affine is not None]
    if len(spacings) < len(training):
        return None, f"{len(training) - len(spacings)} of {len(training)} volumes have no spacing, so none is resampled"
    axes = list(zip(*spacings, strict=True))
    if all(max(axis) <= SIMILAR * min(axis) for axis in axes):
        return None, f"all volumes have about the same spacing, {_numbers([median(axis) for axis in axes])} mm"
    chosen = [median(axis) for axis in axes]
    coarsest = int(np.argmax(chosen))
    reason = "it is the median, and spacings differ by more than a tenth"
    if chosen[coarsest] > FLAT * min(chosen):
        finer = max(float(np.percentile(axes[coarsest], 10)), min(chosen))
        chosen[coarsest] = min(chosen[coarsest], finer)
        reason += "; the coarsest axis has its 10th percentile, since slices are far apart"
    return tuple(float(f"{mm:.3g}") for mm in chosen), reason


def _intensity_of_images(base: Preprocess, training: Manifest, fingerprint: Fingerprint) -> Proposed:
    if base.channel_names:
        return base.intensity, EACH_CHANNEL
    if base.intensity.method != "range":
        return base.intensity, "not all images have 8 bits: each gets zero mean and unit variance"
    whole = [(group.intensity, group.num_images) for group in fingerprint.of_kind("image")]
    known = [(one, weight) for one, weight in whole if one is not None and len(one.mean) == base.channels]
    if len(known) < len(whole) or not known:
        return base.intensity, "all images have 8 bits, and their channels differ"
    mean, std = _pooled([one for one, _ in known], [weight for _, weight in known])
    top = float(np.iinfo(np.dtype(training.rows[0].dtype)).max)
    if min(std) < MIN_DEVIATION * top:
        return base.intensity, "all images have 8 bits, and a channel is constant"
    scaled = {"mean": _digits([one / top for one in mean]), "std": _digits([one / top for one in std])}
    return Normalization.parse({"method": "range", **scaled}), (
        "all images have 8 bits; mean and standard deviation of each channel are those of the training images"
    )


def _intensity_of_volumes(base: Preprocess, fingerprint: Fingerprint) -> Proposed:
    if base.channel_names:
        return base.intensity, EACH_CHANNEL
    if base.intensity.method != "window":
        return base.intensity, "not all volumes are CT in HU: each gets zero mean and unit variance"
    found = [group.foreground for group in fingerprint.of_kind("volume")]
    one = found[0] if len(found) == 1 else None
    if one is None or len(one.mean) != 1 or one.high[0] <= one.low[0]:
        return base.intensity, "all volumes are CT in HU, without a foreground to choose a window by: soft tissue"
    low, width = one.low[0], one.high[0] - one.low[0]
    mean, std = _digits([(one.mean[0] - low) / width]), _digits([max(one.std[0] / width, MIN_DEVIATION)])
    window = {"method": "window", "window_center": _digits([low + width / 2])[0], "window_width": _digits([width])[0]}
    return Normalization.parse({**window, "mean": mean, "std": std}), (
        "all volumes are CT in HU: 0.5th to 99.5th percentile, mean and standard deviation of the foreground"
    )


def _pooled(parts: Sequence[IntensityStatistics], weights: Sequence[int]) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of several groups together, weighted by their numbers of images."""
    share = np.array(weights, dtype=float)[:, None] / sum(weights)
    means, stds = np.array([one.mean for one in parts]), np.array([one.std for one in parts])
    mean = (share * means).sum(axis=0)
    return mean.tolist(), np.sqrt((share * (stds**2 + means**2)).sum(axis=0) - mean**2).tolist()


def _digits(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(f"{value:.4g}") for value in values)


def _numbers(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.3g}" for value in values)
