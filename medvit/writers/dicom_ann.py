"""Tiles of a DICOM slide as Microscopy Bulk Simple Annotations (PS3.3 A.87) in the study of the slide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medvit.errors import UnsupportedError
from medvit.records import Item
from medvit.writers import COLORS, Concept, ModelTask, SlideContext
from medvit.writers.dicom_parts.coded_terms import PRIVATE_SCHEME, label_of, property_category, property_types
from medvit.writers.dicom_parts.dicom_object import algorithm, authorship, coded, fit_texts, notes_on, silent
from medvit.writers.dicom_parts.object_uids import ObjectUids, object_uids
from medvit.writers.dicom_parts.source_instances import Sources, read_sources
from medvit.writers.slide_maps import SlideFinding

if TYPE_CHECKING:
    from pydicom import Dataset

ATTENTION = Concept(PRIVATE_SCHEME, "ATTENTION", "Attention of the model")
PROBABILITY = Concept(PRIVATE_SCHEME, "PROBABILITY", "Probability of the class")
NO_UNIT = Concept("UCUM", "1", "no units")


def write_ann(path: Path, context: SlideContext, sources: Sources) -> list[str]:
    """Write the tiles of a slide as annotations: a group of squares for each class, with measurements; return notes.

    The group of a class has the tiles for which it is the most probable class.

    Raises:
        UnsupportedError: If the source has no whole-slide image for the coordinates to refer to.
    """
    import highdicom as hd

    finding = context.prediction
    source = base_level(sources.headers)
    chosen = finding.reading.scores.argmax(axis=1)
    reading = finding.reading
    results = (finding.grid.xy, reading.probabilities, reading.scores, reading.maps)
    labels = [label for label in range(len(finding.classes)) if (chosen == label).any()]
    with silent():
        # The pixels of a slide take too long to read again: the results of all tiles stand for them.
        uids = object_uids("annotations", context, sources, "", *results)
        fit_texts(sources, context, finding.classes)
        groups = [
            _group(number, label, np.flatnonzero(chosen == label), context, uids)
            for number, label in enumerate(labels, start=1)
        ]
        annotations = hd.ann.MicroscopyBulkSimpleAnnotations(
            source_images=[source],
            annotation_coordinate_type=hd.ann.AnnotationCoordinateTypeValues.SCOORD,
            annotation_groups=groups,
            **authorship(sources, context, "tiles", uids),
        )
        annotations.save_as(path)
    return notes_on(sources)


def base_level(headers: Sequence[Dataset]) -> Dataset:
    """Return the header of the image at full resolution.

    Raises:
        UnsupportedError: If no header is of an image at full resolution.
    """
    whole = [
        header for header in headers if "VOLUME" in header.get("ImageType", ()) and "TotalPixelMatrixRows" in header
    ]
    if not whole:
        raise UnsupportedError("no file of the source is a whole-slide image (ImageType VOLUME)")
    return max(whole, key=lambda header: int(header.TotalPixelMatrixColumns))


def _group(number: int, label: int, members: Any, context: SlideContext, uids: ObjectUids) -> Any:
    import highdicom as hd

    finding = context.prediction
    name = finding.classes[label]
    side, scores = finding.side, finding.reading.scores
    # Corners in the order along the square's outline, x along a row (PS3.3 C.37.1.2, RECTANGLE).
    outline = np.array([(0.0, 0.0), (side, 0.0), (side, side), (0.0, side)])
    squares = [(corner + outline).astype(np.float32) for corner in finding.grid.xy[members]]
    return hd.ann.AnnotationGroup(
        number=number,
        uid=uids.of("group", name),
        label=label_of(name),
        annotated_property_category=coded(property_category(name)),
        annotated_property_type=coded(property_types(finding.classes, context.codes)[name]),
        graphic_type=hd.ann.GraphicTypeValues.RECTANGLE,
        graphic_data=squares,
        algorithm_type=hd.ann.AnnotationGroupGenerationTypeValues.AUTOMATIC,
        algorithm_identification=algorithm(context.maker),
        measurements=[
            hd.ann.Measurements(coded(ATTENTION), finding.reading.attention[members], coded(NO_UNIT)),
            hd.ann.Measurements(coded(PROBABILITY), scores[members, label], coded(NO_UNIT)),
        ],
        display_color=hd.color.CIELabColor.from_rgb(*COLORS[label % len(COLORS)]),
    )


class DicomAnnWriter:
    """Writer of `annotations.dcm`."""

    name, title = "dicom_ann", "DICOM annotations"
    tasks: Sequence[ModelTask] = ("slide",)

    def applies(self, item: Item, prediction: SlideFinding) -> bool:
        """Return whether the item is a DICOM slide; items of other formats have no series."""
        return bool(item.identity.series)

    def write(self, context: SlideContext, folder: Path) -> Sequence[str]:
        """Write the annotations."""
        return write_ann(context.path(folder, "annotations", ".dcm"), context, read_sources(context.item))


WRITER = DicomAnnWriter()
