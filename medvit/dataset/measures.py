"""Labels measured from label maps: presence, volume, area and number of objects of each class.

They can be targets like the labels of a table: presence for multi-label classification (`task=multilabel`), the other
measures for regression.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Int
from numpy import ndarray as Array

from medvit.dataset.store import Store
from medvit.engine import EngineConfig, map_items
from medvit.errors import DataError
from medvit.geometry import voxel_ml
from medvit.records import Row

log = logging.getLogger("medvit")

Measure = Literal["present", "volume_ml", "area_mm2", "objects"]
"""Measure of a class in a label map. `present` is yes or no. `objects` is the number of instances if the file numbers
them, else the number of connected regions (pixels or voxels that touch at a corner are connected).
"""
YES, NO = "yes", "no"
MICRONS_PER_MM = 1000.0


@dataclass(frozen=True)
class MeasureMask:
    """Function object that measures the classes of the label map of one image.

    `classes` are the names of the label-map values 0, 1, 2..., of which 0 is the background. `instances` maps the
    `image_id` of each image whose label-map file numbers instances (of a single class) to the number of instances.
    """

    store: Store
    classes: tuple[str, ...]
    measures: tuple[Measure, ...]
    instances: Mapping[str, int]

    def __call__(self, row: Row) -> dict[str, str]:
        """Return the measured labels of an image, keyed by name.

        Volume and area are omitted if the image has no physical scale. Classes that are not annotated in the image are
        not measured.
        """
        assert row.mask is not None
        labels = self.store.get(row.mask)
        counts = np.bincount(labels.ravel(), minlength=len(self.classes))
        found = {}
        for value, name in list(enumerate(self.classes))[1:]:
            if row.annotated is not None and name not in row.annotated:
                continue
            for measure in self.measures:
                text = self._measured(measure, row, labels == value, int(counts[value]))
                if text is not None:
                    found[label_of(measure, name)] = text
        return found

    def _measured(self, measure: Measure, row: Row, region: Array, count: int) -> str | None:
        if measure == "present":
            return YES if count else NO
        if measure == "objects":
            return str(self.instances[row.image_id] if row.image_id in self.instances else num_objects(region))
        size = _voxel_ml(row) if measure == "volume_ml" else _pixel_mm2(row)
        return None if size is None else f"{count * size:.6g}"


def label_of(measure: Measure, class_name: str) -> str:
    """Return the name of a measured label, such as `volume_ml_liver`."""
    return f"{measure}_{'_'.join(class_name.split())}"


def num_objects(region: Array) -> int:
    """Return the number of connected regions in a mask (*S); pixels or voxels that touch at a corner are connected."""
    from scipy.ndimage import label

    return int(label(region, structure=np.ones((3,) * region.ndim))[1])


def num_instances(labels: Int[Array, "*s"], ignored: Sequence[int] = ()) -> int:
    """Return the number of different values above 0 in a label map, without the ignored ones."""
    values = np.unique(labels)
    return int(((values > 0) & ~np.isin(values, ignored)).sum())


def with_measures(
    rows: Sequence[Row],
    store: Store,
    classes: Sequence[str],
    measures: Sequence[Measure],
    *,
    instances: Mapping[str, int] | None = None,
    engine: EngineConfig,
) -> tuple[Row, ...]:
    """Return the rows with labels measured from their label maps; rows without a label map are unchanged.

    `classes` are the names of the label-map values 0, 1, 2... `instances` maps an `image_id` to the number of instances
    in the label map of this image.

    Raises:
        DataError: If there is no label map with named classes, or an image already has a label with the same name.
    """
    if not measures:
        return tuple(rows)
    masked = [row for row in rows if row.mask is not None and row.kind != "slide"]
    if not masked or not classes:
        raise DataError(
            f"measures={list(measures)} needs label maps of classes, and the images have none; give the label maps "
            "(scanning.mask_folder) and their classes (labeling.mask_classes), or remove measures"
        )
    function = MeasureMask(store, tuple(classes), tuple(measures), instances or {})
    found: dict[str, dict[str, str]] = {}
    for outcome in map_items(function, masked, config=engine, title="measure"):
        if outcome.result is None:
            raise outcome.error or DataError(f"{outcome.item} could not be measured")
        found[outcome.item.image_id] = outcome.result
    _report(found, [label_of(measure, name) for measure in measures for name in classes[1:]])
    return tuple(_with_labels(row, found.get(row.image_id, {})) for row in rows)


def measured_positives(measures: Sequence[Measure], classes: Sequence[str]) -> dict[str, str]:
    """Return the positive class of each measured label with two classes, keyed by label."""
    return {label_of("present", name): YES for name in classes[1:]} if "present" in measures else {}


def _with_labels(row: Row, labels: Mapping[str, str]) -> Row:
    twice = sorted(labels.keys() & row.labels.keys())
    if twice:
        raise DataError(
            f"{row} has the label {twice[0]} from the label table, and it is to be measured from the label map; rename "
            "the column, or remove the measure"
        )
    return replace(row, labels={**row.labels, **labels})


def _report(found: Mapping[str, Mapping[str, str]], names: Sequence[str]) -> None:
    counts = Counter(name for labels in found.values() for name in labels)
    for name in names:
        if counts[name] < len(found):
            log.warning(
                "%s is missing for %d of %d images: they lack a physical scale, have another dimension, or their label "
                "map does not annotate the class",
                name,
                len(found) - counts[name],
                len(found),
            )


def _voxel_ml(row: Row) -> float | None:
    """Return the volume of a voxel in mL; None for a 2D image, or without a spacing."""
    if row.kind != "volume" or row.spacing_mm is None:
        return None
    return voxel_ml(row.spacing_mm)


def _pixel_mm2(row: Row) -> float | None:
    """Return the area of a pixel in mm^2; None for a volume, or without a scale."""
    if row.kind != "image" or row.mpp is None:
        return None
    return (row.mpp / MICRONS_PER_MM) ** 2
