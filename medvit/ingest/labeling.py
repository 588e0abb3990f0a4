"""Labels of the images of a source: the table or the folders they come from, and what label maps mean."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from medvit.config import Config
from medvit.deidentification.patient_ids import with_shared_uids
from medvit.ingest.label_keys import LabelBy
from medvit.ingest.label_table import LabelTable, Unmatched
from medvit.ingest.labels import LABEL, LabelFrom, from_folders, positive_classes
from medvit.ingest.laterality import paired
from medvit.ingest.mask_meaning import MaskClasses, MaskValues
from medvit.ingest.scan import Scan
from medvit.records import Candidate

log = logging.getLogger("medvit")


def _spelled_out(value: Any) -> Any:
    """Texts of a list in which YAML takes NULL for nothing."""
    return ["NULL" if text is None else text for text in value] if isinstance(value, list | tuple) else value


MissingTexts = Annotated[tuple[str, ...], BeforeValidator(_spelled_out)]
IgnoredValues = Annotated[
    tuple[int, ...], BeforeValidator(lambda value: (value,) if isinstance(value, int | str) else value)
]


class LabelingConfig(Config):
    """Where labels come from and what label maps mean."""

    table: Path | None = Field(default=None, json_schema_extra={"private": True})
    """CSV or Excel (.xlsx): a column that says what a line is about, labels, and maybe split and patient."""
    by: LabelBy = "file"
    """What lines are about: file (path relative to source, or unique name), study, series, accession or patient, in the
    column file, StudyInstanceUID, SeriesInstanceUID, AccessionNumber or PatientID."""
    unmatched: Unmatched = "refuse"
    """Lines about what the source does not have: refuse, or warn and skip them."""
    columns: tuple[str, ...] = ()
    """Columns of the table to take, in any letter case. Empty: all but those that look as if they named people."""
    missing: MissingTexts | None = None
    """Texts of the table for a missing value. Unset: NA, n/a, nan, NULL and #N/A; None, - and + are refused."""
    from_folders: LabelFrom = "off"
    """Labels from folder names, which may name people: folder takes them, auto if nothing speaks against it."""
    positive: dict[str, str] | str = ""
    """The positive one of two classes, as cancer, or by label, as {finding: cancer}: sensitivity is of it."""
    mask_classes: MaskClasses = ()
    """Names of the values 0, 1, 2... of label maps, or of those of a mapping, as {0: background, 255: lesion}."""
    mask_values: MaskValues = "classes"
    """What values of label maps above 0 number: classes, or instances, single things that all become class 1."""
    mask_ignore: IgnoredValues = ()
    """Values of label maps that are no class: such pixels count in no loss and no metric."""

    @model_validator(mode="after")
    def _have_one_meaning(self) -> Self:
        if isinstance(self.mask_classes, Mapping) and self.mask_values == "instances":
            raise ValueError("mask_values=instances makes all values one class, mask_classes names values; give one")
        return self


OF_A_TABLE = ("by", "unmatched", "missing", "columns")
"""Options that mean nothing without a table."""


@dataclass(frozen=True)
class Labeled:
    """The images of a source with their labels, and what became of options that follow from these.

    `columns` are those of the table that labels were taken of, `positive` the positive classes by label.
    """

    candidates: tuple[Candidate, ...]
    from_folders: LabelFrom
    columns: tuple[str, ...]
    positive: Mapping[str, str]


@dataclass(frozen=True)
class Labels:
    """Labels to give to images: those of a table that was checked as far as it can be without them, or of folders."""

    config: LabelingConfig
    table: LabelTable | None

    @classmethod
    def read(cls, config: LabelingConfig) -> Self:
        """Return the labels, of the table if there is one.

        Raises:
            DataError: If the table cannot be taken.
        """
        if config.table is None:
            for key in OF_A_TABLE:
                if getattr(config, key) != type(config).model_fields[key].default:
                    log.warning("labeling.%s is ignored: it is of a table, and labeling.table=... names none", key)
            return cls(config, None)
        if config.from_folders != "off":
            folders = config.from_folders
            log.warning("labeling.from_folders=%s is ignored: the labels come from the table", folders)
        return cls(config, LabelTable.read(config.table, by=config.by, columns=config.columns, missing=config.missing))

    def give(self, found: Scan, modality: str) -> Labeled:
        """Return the images of a source with their labels; `modality` is meant where a file says none.

        Raises:
            DataError: If lines of the table do not fit the images, or no label has the positive class.
        """
        if self.table is not None:
            told = self.table.labeled(found.candidates, found.files, self.config.unmatched)
            return self._labeled(paired(told, modality), found, "off", tuple(self.table.columns))
        named = from_folders(found.candidates, self.config.from_folders)
        candidates = paired(named, modality, folders_are_classes=any(one.labels for one in named))
        took = _took_folders(found.candidates, candidates)
        asked = "off" if self.config.from_folders == "auto" else self.config.from_folders
        return self._labeled(candidates, found, "folder" if took else asked, self.config.columns)

    def _labeled(
        self, candidates: Sequence[Candidate], found: Scan, folders: LabelFrom, columns: tuple[str, ...]
    ) -> Labeled:
        own = with_shared_uids(candidates, found.refused)
        return Labeled(own, folders, columns, positive_classes(own, self.config.positive))


def _took_folders(before: Sequence[Candidate], after: Sequence[Candidate]) -> bool:
    return any(LABEL in now.labels and LABEL not in one.labels for one, now in zip(before, after, strict=True))
