"""Task of a model, inferred from its dataset: classes, and a crop size that suits the images."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from medvit.backbones import Backbone
from medvit.dataset.manifest import Manifest
from medvit.dataset.slices import SlicesConfig
from medvit.errors import ConfigError, DataError
from medvit.geometry import Affine, resampled_grid
from medvit.losses.class_balance import Balance, ClassBalance
from medvit.records import Row
from medvit.summary import counted
from medvit.tasks import NOUNS, NUM_INTERVALS, OF_CLASSES, LabelTaskName, Target, TaskName, image_task, is_image_task
from medvit.tasks.multitask import TASK as MULTITASK
from medvit.transforms.preprocess import Normalization, Preprocess

log = logging.getLogger("medvit")

LARGEST_CROP = {2: 512, 3: 96}
"""Largest default side of a crop, in pixels or voxels, keyed by the number of dimensions."""
LARGEST_VIEW = {2: 224, 3: 96}
"""Largest default side of a view in pretraining, in pixels or voxels, keyed by the number of dimensions."""
IMAGE_SIZE = (224, 224)
"""Default size to which images are resized."""
CT_WINDOW = Normalization(method="window", window_center=40.0, window_width=400.0)
"""Soft tissue window, in HU."""


@dataclass(frozen=True)
class TaskAssignment:
    """Task of a model, and the images for it: `train` and `val` contain only images with the target."""

    kind: TaskName
    target: Target
    """Label and classes. For a segmentation: the classes of the label map, the first of which is the background."""
    train: Manifest
    val: Manifest

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the logits; for a regression, only the name of the label."""
        return self.target.classes

    @property
    def label_classes(self) -> tuple[str, ...]:
        """Classes of the label; empty if the target is a number or the mask."""
        return self.classes if self.kind in OF_CLASSES else ()

    @property
    def modality(self) -> str | None:
        """Modality of the training images; None if there are several or it is unknown."""
        found = {row.modality for row in self.train}
        return found.pop() or None if len(found) == 1 else None

    def odds(self, method: Balance) -> list[float] | None:
        """Return the relative sampling probability of each training image; None if all are equal."""
        if self.kind not in OF_CLASSES:
            return None
        found = [row.labels[self.target.label] for row in self.train]
        counts = Counter(found)
        odds = ClassBalance(method, [counts[name] for name in self.classes]).odds
        if odds is None:
            return None
        by_class = dict(zip(self.classes, odds.tolist(), strict=True))
        return [by_class[name] for name in found]


def require_fitting(
    ndim: int, *, sizes: Mapping[str, tuple[int, ...] | None], axes: Mapping[str, tuple[int, ...]]
) -> None:
    """Check that options fit images with `ndim` axes; `sizes` and `axes` map names of options to their values.

    Each of `sizes` must have one number per axis. Each of `axes` must name only existing axes.

    Raises:
        ConfigError: If an option does not fit images of `ndim` axes.
    """
    for key, size in sizes.items():
        if size and len(size) != ndim:
            raise ConfigError(f"{key} has {len(size)} numbers; the images of this model have {ndim} axes")
    for key, named in axes.items():
        if named and max(named) >= ndim:
            raise ConfigError(f"{key} names axis {max(named)}; the images of this model have axes 0 to {ndim - 1}")


def require_turnable(crop: tuple[int, ...], axes: tuple[int, int] | None) -> None:
    """Check that crops keep their size when they are turned by 90 degrees in the plane of two axes.

    Raises:
        ConfigError: If the axes are equal, or the crop is not equally long on both.
    """
    if axes is None:
        return
    first, second = axes
    if first == second or crop[first] != crop[second]:
        raise ConfigError(
            f"turned_axes=[{first},{second}] needs two axes on which crops are equally long; found "
            f"{crop[first]} and {crop[second]}: set crop=... or other axes"
        )


def require_whole_patches(backbone: Backbone, crops: Mapping[str, tuple[int, ...]]) -> None:
    """Check that all patch sizes of a backbone that draws them at random divide the sides of crops.

    `crops` contains the sizes of crops, keyed by option name.

    Raises:
        ConfigError: If a patch size does not divide a side. It would never be drawn.
    """
    for key, crop in crops.items():
        for size in backbone.patch_sizes:
            if any(side % patch for side, patch in zip(crop, size, strict=True)):
                raise ConfigError(
                    f"backbone.patch_sizes has the size {' x '.join(map(str, size))}, which does not divide "
                    f"{key}={list(crop)}; give multiples of {list(backbone.crop_multiple)}, or other patch sizes"
                )


def require_channels(manifest: Manifest, preprocess: Preprocess, slices: SlicesConfig | None) -> None:
    """Check that a slice and its neighboring slices remain separate channels after preprocessing.

    Averaging the slices would lose depth.

    Raises:
        ConfigError: If the preprocessing makes another number of channels, or the channels have names.
    """
    if slices is None or not slices.neighbors:
        return
    if preprocess.channel_names:
        raise ConfigError(
            f"slices.neighbors={slices.neighbors} adds channels, which images with named channels do not support; set "
            "slices.neighbors=0"
        )
    found = manifest.rows[0].shape[0]
    if found != preprocess.channels:
        raise ConfigError(
            f"slices.neighbors={slices.neighbors} makes {found} channels, and preprocess.channels is "
            f"{preprocess.channels}; give preprocess.channels={found}"
        )


def require_known_channels(manifest: Manifest, preprocess: Preprocess) -> None:
    """Warn if no training image has a named channel of the model input, as after a typing error.

    Raises:
        ConfigError: If no training image has any of the named channels.
    """
    found = sorted({name for row in manifest for name in row.channels})
    lacking = [name for name in preprocess.channel_names if name not in found]
    if lacking and len(lacking) == len(preprocess.channel_names):
        have = (
            f"they have {', '.join(found)}" if found else "their channels have no names; use channels.names of ingest"
        )
        raise ConfigError(
            f"preprocess.channel_names: none of the {len(manifest)} training images has a channel named "
            f"{' or '.join(lacking)}; {have}"
        )
    if lacking:
        log.warning(
            "preprocess.channel_names: none of the %d training images has the channel %s; they have %s",
            len(manifest),
            " or ".join(lacking),
            ", ".join(found),
        )


def warn_of_ignored(
    task: TaskName, options: Mapping[str, object], *used_by: TaskName, of_labels: Sequence[TaskName] = ()
) -> None:
    """Warn about options that only the tasks `used_by` use, if `task` is not one of them.

    `of_labels` are the tasks of the labels of a multi-task model. There is no warning if one of them uses the options.
    """
    if not {task, *of_labels} & set(used_by):
        for key, value in options.items():
            log.warning(
                "%s=%s is ignored: it is an option of %s, and this is %s",
                key,
                value,
                " and ".join(used_by),
                NOUNS[task],
            )


def assign(
    manifest: Manifest,
    preprocess: Preprocess,
    label: str,
    *,
    kind: TaskName | None = None,
    labels: Sequence[str] = (),
    tasks: Mapping[str, LabelTaskName] | None = None,
    weights: Mapping[str, float] | None = None,
    event: str = "",
    intervals: int = NUM_INTERVALS,
    with_val: bool = True,
) -> TaskAssignment:
    """Return the task of a dataset, with the images that have its target.

    `labels` are the labels of a multi-label classification. `tasks` are the labels of a multi-task model with their
    tasks, and `weights` the weights of their losses, if they are not 1. `event` is the label of the event of a survival
    prediction, and `intervals` its number of time intervals. If `kind` is unset, the task is classification if images
    have the label, else segmentation if they have masks. Without `with_val`, the manifest of validation images is
    empty.

    Raises:
        DataError: If no image has the target, a split is empty, the dataset has fewer than two classes, or a target
            does not fit the task.
    """
    usable = manifest.filter(lambda row: row.kind == preprocess.kind)
    kind = kind or _inferred(usable, label)
    several = {"multilabel": tuple(labels), "multitask": tuple(tasks or {}), "survival": (label, event)}
    asked = several.get(kind, (label,) if is_image_task(kind) else ())
    answered = usable.filter(lambda row: any(name in row.labels for name in asked) if asked else bool(row.mask))
    if not answered.rows:
        raise _without_target(usable, f"a label {' or '.join(map(repr, asked))}" if asked else "a mask")
    _log_missing(usable, answered, " or ".join(asked) or "label map")
    val = answered.split("val") if with_val else answered.filter(lambda row: False)
    train = answered.split("train")
    try:
        target = (
            MULTITASK.target(train.rows, asked, train.facts, tasks=tasks or {}, weights=weights or {})
            if kind == "multitask"
            else _target(kind, train, asked, intervals)
        )
        return TaskAssignment(kind, target, train, val)
    except DataError as error:
        raise DataError(f"{manifest.folder}: {error}") from None


def _target(kind: TaskName, train: Manifest, labels: Sequence[str], intervals: int) -> Target:
    if is_image_task(kind):
        return image_task(kind).with_intervals(intervals).target(train.rows, labels, train.facts)
    classes = train.facts.mask_classes
    if len(classes) < 2:
        raise DataError(f"{kind} needs at least two classes; found {', '.join(classes) or 'none'}")
    _require_annotated(train, classes)
    return Target("", tuple(classes))


def _require_annotated(train: Manifest, classes: Sequence[str]) -> None:
    """Check that each foreground class is annotated in a training image."""
    known = {name for row in train for name in (classes if row.annotated is None else row.annotated)}
    missing = [name for name in classes[1:] if name not in known]
    if missing:
        raise DataError(
            f"the class {missing[0]} is annotated in none of the {len(train)} training images; ingest images in which "
            "it is annotated, or ingest again without it in labeling.mask_classes"
        )


def _log_missing(usable: Manifest, answered: Manifest, what: str) -> None:
    before, after = (sum(row.split in ("train", "val") for row in rows) for rows in (usable, answered))
    if after < before:
        log.info(
            "%d of %d images of the train and val splits have no %s and are not used", before - after, before, what
        )


def _inferred(manifest: Manifest, label: str) -> TaskName:
    if any(label in row.labels for row in manifest):
        return "classification"
    if any(row.mask for row in manifest):
        return "segmentation"
    raise _without_target(manifest, f"a mask or a label {label!r}")


def _without_target(manifest: Manifest, target: str) -> DataError:
    keys = ", ".join(sorted({key for row in manifest for key in row.labels})) or "none"
    return DataError(
        f"{manifest.folder}: none of the {len(manifest)} images of the kind this model accepts has {target} "
        f"(labels found: {keys}); give label=... or preprocess.kind=..., or ingest the labels"
    )


def choose_preprocess(manifest: Manifest) -> Preprocess:
    """Return the default preprocessing for the most frequent kind of image.

    Images are resized to 224 x 224. If all images have 8 bits, they are scaled by the 8-bit range; otherwise, each
    image is normalized by its own statistics. Tiles of slides are not resized. Volumes keep their spacing. If all
    volumes are CT, a soft tissue window is applied; otherwise, each volume is normalized by its own statistics. Named
    channels, such as sequences of MR, are normalized each by its own statistics.
    """
    kinds = Counter("image" if row.kind == "slide" else row.kind for row in manifest)
    if not kinds:
        raise DataError(f"{manifest.folder} has no image; ingest some")
    kind = "image" if kinds["image"] >= kinds["volume"] else "volume"
    rows = [row for row in manifest if row.kind == kind or (kind == "image" and row.kind == "slide")]
    names = _channel_names(manifest, rows)
    if names:
        whole = {"size": IMAGE_SIZE} if kind == "image" else {}
        return Preprocess(kind=kind, channels=len(names), channel_names=names, **whole)
    channels = max(row.shape[0] for row in rows)
    if any(row.kind == "slide" for row in rows):  # tiles have one scale, on which cells have their size
        return Preprocess(kind="image", channels=channels, intensity=Normalization(method="range"))
    if kind == "image":
        is_8_bit = all(row.dtype == "uint8" for row in rows)
        # Scaling 12 bits by the range of their 16-bit type would leave a sixteenth of it.
        intensity = Normalization(method="range") if is_8_bit else Normalization()
        return Preprocess(kind=kind, channels=channels, size=IMAGE_SIZE, intensity=intensity)
    is_ct = all(row.modality == "CT" and row.unit == "HU" for row in rows)
    return Preprocess(kind=kind, channels=channels, intensity=CT_WINDOW if is_ct else Normalization())


def _channel_names(manifest: Manifest, rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the names of all channels of the images, in alphabetical order; empty if they have no names.

    Raises:
        DataError: If only some of the images have named channels.
    """
    num_named = sum(bool(row.channels) for row in rows)
    if 0 < num_named < len(rows):
        raise DataError(
            f"{manifest.folder}: {num_named} of {len(rows)} images have named channels; expected all or none: ingest "
            "them separately, or all with scanning.channels"
        )
    return tuple(sorted({name for row in rows for name in row.channels}))


def crop_size(
    manifest: Manifest, preprocess: Preprocess, patch_size: tuple[int, ...], limits: Mapping[int, int] = LARGEST_CROP
) -> tuple[int, ...]:
    """Return the size of training crops: on each axis, the size of the largest image after preprocessing.

    It is limited by `limits`, and rounded up to whole patches.
    """
    shapes = [prepared_shape(row, preprocess) for row in manifest]
    limit = limits[len(patch_size)]
    largest = [min(max(sides), limit) for sides in zip(*shapes, strict=True)]
    return tuple(-(-side // patch) * patch for side, patch in zip(largest, patch_size, strict=True))


def typical_spacing(manifest: Manifest, preprocess: Preprocess) -> tuple[float, ...]:
    """Return the median spacing of voxels after preprocessing along each axis; 1 where it is not known."""
    found = [_prepared_spacing(row, preprocess) for row in manifest]
    return tuple(median(sides) for sides in zip(*found, strict=True))


def _prepared_spacing(row: Row, preprocess: Preprocess) -> tuple[float, ...]:
    before, after = row.shape[1:], prepared_shape(row, preprocess)
    stored = row.spacing_mm if row.spacing_mm is not None and len(before) == 3 else (1.0,) * len(before)
    return tuple(gap * old / new for gap, old, new in zip(stored, before, after, strict=True))


def prepared_shape(row: Row, preprocess: Preprocess) -> tuple[int, ...]:
    """Return the spatial shape of an image after preprocessing, from its manifest row alone.

    Raises:
        ConfigError: If it is to be resized to another number of axes.
    """
    if preprocess.spacing_mm is not None and row.affine is not None:
        import numpy as np

        return resampled_grid(row.shape, Affine(np.array(row.affine).reshape(4, 4)), preprocess.spacing_mm)[0]
    shape = preprocess.size or row.shape[1:]
    if len(shape) != len(row.shape) - 1:
        raise ConfigError(
            f"preprocess.size has {counted(len(shape), 'number')}; {row.kind}s need {len(row.shape) - 1} of them"
        )
    return shape
