"""Fingerprint of a dataset: sizes, spacings, intensities and classes of its training images (`fingerprint.json`)."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray as Array

from medvit.config import Config
from medvit.dataset.intensity_statistics import spread_evenly
from medvit.dataset.manifest import Manifest
from medvit.dataset.samples import load
from medvit.errors import DataError
from medvit.measured import not_measured
from medvit.progress import Progress
from medvit.records import Row
from medvit.types import Image

SCHEMA_VERSION = 1
MEASURED_IMAGES = 500
"""Maximum number of images whose pixels are read, in each group (images of one kind and modality)."""
KEPT_VALUES = 20_000_000
"""Maximum number of intensities from which the statistics of a group are computed, all channels together."""
PERCENTILES = (0.5, 50.0, 99.5)
"""Percentiles of intensities: the outer two are those to which nnU-Net clips CT."""
DIGITS = 6
"""Significant digits of the numbers in the file."""


class Spread(Config):
    """Distribution of a size along each axis."""

    minimum: tuple[float, ...]
    """Smallest value."""
    low: tuple[float, ...]
    """10th percentile."""
    median: tuple[float, ...]
    """Median."""
    high: tuple[float, ...]
    """90th percentile."""
    maximum: tuple[float, ...]
    """Largest value."""

    @classmethod
    def of(cls, values: Sequence[Sequence[float]]) -> Spread:
        """Return the distribution of values (images, axes) along each axis."""
        found = np.percentile(np.array(values, dtype=np.float64), (0, 10, 50, 90, 100), axis=0)
        minimum, low, median, high, maximum = (_rounded(each) for each in found)
        return cls(minimum=minimum, low=low, median=median, high=high, maximum=maximum)


class IntensityStatistics(Config):
    """Statistics of the intensities of each channel, in the unit of the images."""

    mean: tuple[float, ...]
    """Mean."""
    std: tuple[float, ...]
    """Standard deviation."""
    low: tuple[float, ...]
    """0.5th percentile."""
    median: tuple[float, ...]
    """Median."""
    high: tuple[float, ...]
    """99.5th percentile."""

    @classmethod
    def of(cls, values: Float[Array, "c n"]) -> IntensityStatistics:
        """Return the statistics of intensities (channels, voxels)."""
        low, median, high = (_rounded(each) for each in np.percentile(values, PERCENTILES, axis=1))
        mean, std = (_rounded(each) for each in (values.mean(axis=1, dtype=float), values.std(axis=1, dtype=float)))
        return cls(mean=mean, std=std, low=low, median=median, high=high)


class ImageGroupFacts(Config):
    """Facts about the training images of one kind and modality."""

    kind: str
    """Kind of image: image, volume or slide."""
    modality: str
    """DICOM modality; empty if unknown."""
    num_images: int
    """Number of images."""
    num_patients: int
    """Number of patients."""
    channels: tuple[int, ...]
    """Distinct numbers of channels of the images."""
    dtypes: tuple[str, ...]
    """Distinct data types of the stored pixels."""
    units: tuple[str, ...]
    """Distinct units of the intensities; an empty text stands for an unknown unit."""
    shape: Spread | None
    """Number of pixels or voxels along each axis; unset for slides."""
    spacing_mm: Spread | None
    """Spacing along R, A, S in mm, of the volumes with a known spacing; unset if there are none."""
    num_without_spacing: int
    """Number of volumes without spacing."""
    anisotropy: float | None
    """Ratio of the largest to the smallest spacing of a volume, as the median over volumes; unset if unknown."""
    num_measured: int
    """Number of images whose pixels were read for `intensity` and `foreground`; they are evenly spaced in the group."""
    intensity: IntensityStatistics | None
    """Statistics of the intensities of all voxels, except padding and non-finite ones; unset if channels differ."""
    foreground: IntensityStatistics | None
    """Statistics of the intensities of the voxels in any foreground class of the label maps."""


class ClassFacts(Config):
    """Frequency of a class of the label maps."""

    name: str
    """Name of the class."""
    num_voxels: int
    """Number of pixels or voxels of the class, in the images whose pixels were read."""
    num_images: int
    """Number of images that contain the class, among those whose pixels were read."""
    num_annotated: int | None = None
    """Number of label maps that annotate the class, among those read; earlier versions did not count them."""

    @property
    def voxels_per_map(self) -> float:
        """Mean number of voxels of the class in a label map that annotates it."""
        return self.num_voxels / (self.num_annotated or 1)


class Fingerprint(Config):
    """Facts about the training images of a dataset. It contains no identifier of an image, study or patient."""

    schema_version: int = SCHEMA_VERSION
    """Version of the file format."""
    digest: str
    """SHA-256 over the content of the training images and their label maps, in any order."""
    groups: tuple[ImageGroupFacts, ...]
    """Facts for each kind and modality of images."""
    classes: tuple[ClassFacts, ...] = ()
    """Classes of the label maps, the background first."""
    labels: Mapping[str, Mapping[str, int]] = {}
    """Number of training images for each label and class, such as {finding: {cancer: 10}}.

    Labels whose classes are not declared are not included.
    """

    @classmethod
    def of(cls, training: Manifest) -> Fingerprint:
        """Measure the fingerprint of a manifest, whose rows must all be training images.

        Shapes, spacings and labels are those of all rows. Pixels and label maps are read for at most `MEASURED_IMAGES`
        images of each group, evenly spread.

        Raises:
            DataError: If there are no rows, a row is not in the training split, or pixels are missing.
        """
        _require_training(training)
        by_group: dict[tuple[str, str], list[Row]] = {}
        for row in sorted(training.rows, key=lambda row: (row.sha256, row.image_id)):
            by_group.setdefault((row.kind, row.modality), []).append(row)
        chosen = {
            key: [] if key[0] == "slide" else spread_evenly(rows, MEASURED_IMAGES)
            for key, rows in sorted(by_group.items())
        }
        classes = _ClassCounts(len(training.facts.mask_classes))
        groups = []
        with Progress(sum(map(len, chosen.values())), title="Measuring the training images", unit="image") as bar:
            for key, rows in chosen.items():
                values = _measured_values(training, rows, classes, bar)
                groups.append(_group_facts(*key, by_group[key], len(rows), values))
        return cls(
            digest=digest_of(training),
            groups=tuple(groups),
            classes=classes.named(training.facts.mask_classes),
            labels=_label_counts(training),
        )

    def of_kind(self, kind: str) -> list[ImageGroupFacts]:
        """Return the groups of one kind of image."""
        return [group for group in self.groups if group.kind == kind]

    @property
    def foreground_share(self) -> float | None:
        """Share of the labeled voxels that are in a foreground class; unset if no label map was read."""
        counts = [entry.num_voxels for entry in self.classes]
        return sum(counts[1:]) / sum(counts) if sum(counts) else None


def digest_of(training: Manifest) -> str:
    """Return the SHA-256 over the content of the images and label maps of a manifest, in any order."""
    lines = sorted(f"{row.sha256} {row.mask or ''} {row.shape} {row.spacing_mm}" for row in training)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@dataclass
class _Values:
    """Intensities of a group, one array for each image: of all measured voxels, and of the foreground."""

    everywhere: list[Float[Array, "c n"]] = field(default_factory=list)
    foreground: list[Float[Array, "c n"]] = field(default_factory=list)


class _ClassCounts:
    """Numbers of voxels and images of each class of the label maps."""

    def __init__(self, num_classes: int) -> None:
        self.voxels, self.images, self.annotated = np.zeros((3, num_classes), dtype=np.int64)

    def add(self, mask: Int[Array, "*s"], is_annotated: Bool[Array, "l"]) -> None:
        """Count the classes of a label map; values that are not a class, such as ignored pixels, do not count."""
        self.annotated += is_annotated
        found = np.bincount(mask.ravel(), minlength=len(self.voxels))[: len(self.voxels)]
        self.voxels += found
        self.images += found > 0

    def named(self, names: Sequence[str]) -> tuple[ClassFacts, ...]:
        """Return the counts with the names of the classes; empty if no label map was counted."""
        if not self.voxels.sum():
            return ()
        return tuple(
            ClassFacts(name=name, num_voxels=int(voxels), num_images=int(images), num_annotated=int(annotated))
            for name, voxels, images, annotated in zip(names, self.voxels, self.images, self.annotated, strict=True)
        )


def _require_training(training: Manifest) -> None:
    if not training.rows:
        raise DataError(f"{training.folder}: there are no training images to measure; change splits.* and ingest again")
    others = Counter(row.split for row in training if row.split != "train")
    if others:
        raise DataError(f"{training.folder}: a fingerprint is of training images alone; found {dict(others)} as well")


def _measured_values(training: Manifest, rows: Sequence[Row], classes: _ClassCounts, bar: Progress) -> _Values:
    found, names = _Values(), training.facts.mask_classes
    num_classes = len(names)
    for row in rows:
        image = load(training, row)
        each = max(1000, KEPT_VALUES // (len(rows) * row.shape[0]))
        values, is_known = image.intensities().reshape(row.shape[0], -1), _is_known(image)
        found.everywhere.append(_thinned(values[:, is_known], each))
        if image.mask is not None:
            classes.add(image.mask, np.array([row.annotated is None or name in row.annotated for name in names]))
            labels = image.mask.ravel()
            is_foreground = (labels > 0) & (labels < num_classes)
            found.foreground.append(_thinned(values[:, is_known & is_foreground], each))
        bar.update(1)
    return found


def _is_known(image: Image) -> Bool[Array, "n"]:
    """Return which voxels (flattened) are neither padding nor non-finite in any channel."""
    known = np.ones(int(np.prod(image.pixels.shape[1:])), dtype=bool)
    lost = not_measured(image.pixels, image.padding)
    if lost is not None:
        known &= ~lost.reshape(image.pixels.shape[0], -1).any(axis=0)
    return known


def _thinned(values: Float[Array, "c n"], number: int) -> Float[Array, "c m"]:
    """Return about `number` of the values of each channel, evenly spread; all values if there are no more."""
    return values[:, :: -(-values.shape[1] // number) or 1].astype(np.float32)


def _group_facts(kind: str, modality: str, rows: Sequence[Row], num_measured: int, values: _Values) -> ImageGroupFacts:
    spacings = [row.spacing_mm for row in rows if row.kind == "volume" and row.spacing_mm is not None]
    ratios = [max(spacing) / min(spacing) for spacing in spacings]
    is_alike = len({row.channels for row in rows}) == 1
    return ImageGroupFacts(
        kind=kind,
        modality=modality,
        num_images=len(rows),
        num_patients=len({row.patient_id for row in rows}),
        channels=tuple(sorted({row.shape[0] for row in rows})),
        dtypes=tuple(sorted({row.dtype for row in rows})),
        units=tuple(sorted({row.unit for row in rows})),
        shape=None if kind == "slide" else Spread.of([row.shape[1:] for row in rows]),
        spacing_mm=Spread.of(spacings) if spacings else None,
        num_without_spacing=len(rows) - len(spacings) if kind == "volume" else 0,
        anisotropy=_rounded([float(np.median(ratios))])[0] if ratios else None,
        num_measured=num_measured,
        intensity=_statistics(values.everywhere) if is_alike else None,
        foreground=_statistics(values.foreground) if is_alike else None,
    )


def _statistics(values: Sequence[Float[Array, "c n"]]) -> IntensityStatistics | None:
    """Return the statistics over several images; None if they have no voxels, or different channels."""
    known = [each for each in values if each.size]
    if not known or len({each.shape[0] for each in known}) > 1:
        return None
    return IntensityStatistics.of(np.concatenate(known, axis=1))


def _label_counts(training: Manifest) -> dict[str, dict[str, int]]:
    """Return the number of images by label and class, for labels with declared classes.

    A label without declared classes may be a number, such as an age, that few patients share.
    """
    return {
        key: {name: sum(row.labels.get(key) == name for row in training) for name in names}
        for key, names in sorted(training.facts.classes.items())
    }


def _rounded(values: Sequence[float] | Array) -> tuple[float, ...]:
    return tuple(float(f"{value:.{DIGITS}g}") for value in values)


def lines_of(fingerprint: Fingerprint) -> Iterator[tuple[str, str, str]]:
    """Yield the facts as rows of a table: quantity, value, and explanation of the value."""
    for group in fingerprint.groups:
        name = " ".join(filter(None, (group.modality, group.kind)))
        yield f"{name}s", str(group.num_images), f"of {group.num_patients} patients, for training"
        if group.shape is not None:
            yield f"shape of the {name}s", _sides(group.shape.median), f"median; at most {_sides(group.shape.maximum)}"
        if group.spacing_mm is not None:
            ends = f"{_sides(group.spacing_mm.minimum)} to {_sides(group.spacing_mm.maximum)}"
            yield f"spacing of the {name}s", f"{_sides(group.spacing_mm.median)} mm", f"median; {ends}"
    share = fingerprint.foreground_share
    if share is not None:
        yield "foreground", f"{share:.3g}", "share of the voxels of label maps"


def _sides(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
