"""Labels for the images of a source, from a table or folder names, and the meaning of label-map values."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from medvit.config import Config
from medvit.dataset.measures import Measure
from medvit.deidentification.patient_ids import with_shared_uids
from medvit.ingest.label_keys import LabelBy
from medvit.ingest.label_table import LabelTable, Unmatched
from medvit.ingest.labels import (
    LABEL,
    LabelFrom,
    checked_classes,
    from_folders,
    positive_classes,
    with_annotated,
)
from medvit.ingest.laterality import paired
from medvit.ingest.mask_meaning import MaskClasses, MaskValues
from medvit.ingest.scan import Scan
from medvit.records import Candidate

log = logging.getLogger("medvit")


def _spelled_out(value: Any) -> Any:
    """Return a list with None replaced by the text NULL, because YAML reads NULL as None."""
    return ["NULL" if text is None else text for text in value] if isinstance(value, list | tuple) else value


MissingTexts = Annotated[tuple[str, ...], BeforeValidator(_spelled_out)]
IgnoredValues = Annotated[
    tuple[int, ...], BeforeValidator(lambda value: (value,) if isinstance(value, int | str) else value)
]


class LabelingConfig(Config):
    """Sources of labels, and meaning of label maps."""

    table: Path | None = Field(default=None, json_schema_extra={"private": True})
    """CSV or Excel (.xlsx) table with labels. It has a column that identifies the images (see labeling.by), label
    columns, and optionally the columns split and patient.
    """
    by: LabelBy = "file"
    """Unit that each table row describes. The column with its identifier is file, StudyInstanceUID, SeriesInstanceUID,
    AccessionNumber or PatientID. The column file contains paths relative to source, or unique file names.
    """
    unmatched: Unmatched = "refuse"
    """Response to table rows that match nothing in the source. refuse: stop the stage. warn: skip the rows with a
    warning.
    """
    columns: tuple[str, ...] = ()
    """Table columns to use as labels, ignoring letter case. Empty: all columns except those that may identify people.
    """
    missing: MissingTexts | None = None
    """Table values that denote a missing label. Unset: NA, n/a, nan, NULL and #N/A denote a missing label, and the
    ambiguous values None, - and + are refused.
    """
    from_folders: LabelFrom = "off"
    """Use of folder names as labels. folder: always. auto: only if the names look like classes. off: never. Caution:
    folder names may contain names of people.
    """
    positive: dict[str, str] | str = ""
    """Positive class of a label with two classes, to which sensitivity refers. Give the class, such as cancer, or a
    mapping from label to class, such as {finding: cancer}.
    """
    mask_classes: MaskClasses = ()
    """Class names of label-map values: a list for the values 0, 1, 2..., or a mapping such as {0: background, 255:
    lesion}.
    """
    mask_values: MaskValues = "classes"
    """Meaning of label-map values above 0. classes: each value is a class. instances: each value is one object, and all
    objects are stored as class 1.
    """
    measures: tuple[Measure, ...] = ()
    """Labels to measure from label maps, for each class except the background, such as volume_ml_liver for class liver.
    present: yes or no. volume_ml: volume in mL. area_mm2: area in mm2, for 2D images. objects: number of connected
    regions, or of instances with mask_values=instances.
    """
    mask_ignore: IgnoredValues = ()
    """Label-map values to ignore. Pixels with these values count in neither the loss nor the metrics."""
    annotated: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Classes that are annotated in the label maps of a folder, such as {site-a: [liver], site-b: [liver, kidney]}.
    All other classes are unknown in this folder: their pixels are stored as background, and these classes count in
    neither the loss nor the metrics of its images. In other folders, all classes count as annotated.
    """
    annotated_column: str = ""
    """Column of the label table that lists the annotated classes of an image, separated by semicolons, as an
    alternative to labeling.annotated. In images without a row, all classes count as annotated.
    """

    @model_validator(mode="after")
    def _have_one_meaning(self) -> Self:
        if isinstance(self.mask_classes, Mapping) and self.mask_values == "instances":
            raise ValueError(
                "mask_values=instances makes all values one class, but mask_classes names separate values; give only "
                "one of these options"
            )
        return self

    @model_validator(mode="after")
    def _annotates_named_classes(self) -> Self:
        if (self.annotated or self.annotated_column) and not self.mask_classes:
            raise ValueError("annotated classes need names; give mask_classes as well")
        empty = [folder for folder, names in self.annotated.items() if not names]
        if empty:
            raise ValueError(
                f"annotated names no class for the folder {empty[0]!r}; give the annotated classes of its label maps"
            )
        unknown = {name for names in self.annotated.values() for name in names} - set(self.class_names[1:])
        if unknown:
            found, expected = sorted(unknown)[0], ", ".join(self.class_names[1:])
            raise ValueError(f"annotated names {found!r}; expected foreground classes of mask_classes: {expected}")
        if self.annotated and self.annotated_column:
            raise ValueError("annotated and annotated_column are both given; give only one of them")
        if self.annotated_column and self.table is None:
            raise ValueError("annotated_column is a column of the label table; give table as well")
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes of label maps, in the order of their numbers; empty if they are not given."""
        given = self.mask_classes
        return tuple(dict.fromkeys(given.values())) if isinstance(given, Mapping) else tuple(given)


OF_A_TABLE = ("by", "unmatched", "missing", "columns")
"""Options that have no effect without a table."""


@dataclass(frozen=True)
class Labeled:
    """Images of a source with their labels, and the label options in use.

    `columns` are the label columns of the table; `positive` maps labels to their positive classes.
    """

    candidates: tuple[Candidate, ...]
    from_folders: LabelFrom
    columns: tuple[str, ...]
    positive: Mapping[str, str]


@dataclass(frozen=True)
class Labels:
    """Labels to assign to images: from a table, or from folder names.

    The cells of the table are read and checked; its rows are not yet matched to images.
    """

    config: LabelingConfig
    table: LabelTable | None

    @classmethod
    def read(cls, config: LabelingConfig) -> Self:
        """Return the labels to assign; a label table is read if there is one.

        Raises:
            DataError: If the table cannot be used.
        """
        if config.table is None:
            for key in OF_A_TABLE:
                if getattr(config, key) != type(config).model_fields[key].default:
                    log.warning("labeling.%s is ignored: it applies to a table, but labeling.table is unset", key)
            return cls(config, None)
        if config.from_folders != "off":
            folders = config.from_folders
            log.warning("labeling.from_folders=%s is ignored: the labels come from the table", folders)
        how: dict[str, Any] = {"by": config.by, "columns": config.columns, "missing": config.missing}
        return cls(config, LabelTable.read(config.table, **how, annotated=config.annotated_column))

    def give(self, found: Scan, modality: str) -> Labeled:
        """Return the images of a source with their labels; `modality` applies to files that do not state one.

        Raises:
            DataError: If rows of the table do not match the images, or if no label has the positive class.
        """
        if self.table is not None:
            labeled = self.table.labeled(found.candidates, found.files, self.config.unmatched)
            return self._labeled(paired(labeled, modality), found, "off", tuple(self.table.columns))
        named = from_folders(found.candidates, self.config.from_folders)
        candidates = paired(named, modality, folders_are_classes=any(one.labels for one in named))
        took = _took_folders(found.candidates, candidates)
        asked = "off" if self.config.from_folders == "auto" else self.config.from_folders
        return self._labeled(candidates, found, "folder" if took else asked, self.config.columns)

    def _labeled(
        self, candidates: Sequence[Candidate], found: Scan, folders: LabelFrom, columns: tuple[str, ...]
    ) -> Labeled:
        own = with_shared_uids(candidates, found.refused)
        if self.config.annotated:
            own = with_annotated(own, self.config.annotated)
        if self.config.class_names:
            own = checked_classes(own, self.config.class_names)
        return Labeled(own, folders, columns, positive_classes(own, self.config.positive))


def _took_folders(before: Sequence[Candidate], after: Sequence[Candidate]) -> bool:
    return any(LABEL in now.labels and LABEL not in one.labels for one, now in zip(before, after, strict=True))
