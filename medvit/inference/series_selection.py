"""Selection of series: grouping of images into studies, and choice of the series for a model."""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from medvit.deidentification.patient_ids import spelled_alike
from medvit.deidentification.pseudonyms import SiteNames
from medvit.dicom.header import Header, read_header
from medvit.errors import ConfigError, DataError, MedvitError, NotAnImageError
from medvit.files.guard import decoding
from medvit.inference.series.criteria import DICOM, is_described, is_of_modality, misfits
from medvit.readers.channels import UNUSED
from medvit.readers.label_maps import ORPHAN
from medvit.records import Item, Refusal, patients_of
from medvit.writers import Study

if TYPE_CHECKING:
    from medvit.models.image import AppliesTo

log = logging.getLogger("medvit")

FURTHER = ("orientation", "spacing_mm", "num_slices", "body_part", "contrast")
"""Criteria of a rule that are named when no series meets them."""
SeriesChoice = Literal["best", "all", "one"]


class NoSeriesError(DataError):
    """Error for a study without a series for the model. The study is skipped and does not count as failed."""

    code = "no_series"


@dataclass(frozen=True)
class StudyIndex:
    """Contents of a source: studies ordered by pseudonym, and the number of files that are not images.

    An unreadable image that does not belong to a readable study counts as a study without items.
    """

    studies: tuple[Study, ...]
    num_ignored: int = 0
    """Files that are not images."""


def studies(found: Iterable[Item | Refusal], source: Path, names: SiteNames, applies_to: AppliesTo) -> StudyIndex:
    """Group the items of `source` by study.

    DICOM images are grouped by patient and by Study Instance UID (0020,000D), or by folder if the UID is empty. Any
    other image is a study by itself. A refused series that would fit the model is stored with its study. If no other
    series of the study fits, the study counts as failed, not as skipped.
    """
    (index,) = studies_by_rule(found, source, names, [applies_to])
    return index


def studies_by_rule(
    found: Iterable[Item | Refusal], source: Path, names: SiteNames, rules: Sequence[AppliesTo]
) -> list[StudyIndex]:
    """Group the items of `source` by study, as `studies` does, once for each rule that selects series.

    The studies are the same for each rule, and in the same order; only their refused series differ.
    """
    entries = list(found)
    taken = [entry for entry in entries if isinstance(entry, Item)]
    refusals = [entry for entry in entries if isinstance(entry, Refusal)]
    images = [refusal for refusal in refusals if refusal.code not in (NotAnImageError.code, ORPHAN, UNUSED)]
    headers = [_header(refusal.files[0]) for refusal in images]
    patients = iter(patients_of([*(item.identity for item in taken), *filter(None, headers)]))
    items: dict[StudyKey, list[Item]] = defaultdict(list)
    for item in taken:
        items[StudyKey.of(item, source, next(patients))].append(item)
    of = [None if header is None else RefusedHeader(header, next(patients)) for header in headers]
    pairs = list(zip(images, of, strict=True))
    belongings = [Belongings.of(pairs, items, source, rule) for rule in rules]
    keys = sorted(items.keys() | belongings[0].refused.keys())
    grouped = [_grouped(keys, items, one, names) for one in belongings]
    _warn_of(grouped[0], keys)
    strays = [Study(names.study(_relative(stray.files[0], source)), (), (stray,)) for stray in belongings[0].strays]
    num_ignored = len(refusals) - len(images)
    return [StudyIndex(tuple(sorted([*one, *strays], key=lambda s: s.name)), num_ignored) for one in grouped]


def _grouped(
    keys: Sequence[StudyKey], items: Mapping[StudyKey, Sequence[Item]], belongings: Belongings, names: SiteNames
) -> list[Study]:
    num_patients = Counter(key.study for key in keys)
    return [
        Study(
            key.name(names, is_shared=num_patients[key.study] > 1),
            tuple(items.get(key, ())),
            tuple(belongings.refused.get(key, ())),
            belongings.num_unreadable[key],
            num_others=num_patients[key.study] - 1,
        )
        for key in keys
    ]


class StudyKey(NamedTuple):
    """Key of a study: its Study Instance UID, and the patient, because patients may share the UID by mistake."""

    study: str
    patient: str = ""

    @classmethod
    def of(cls, item: Item, source: Path, patient: str) -> StudyKey:
        """Return the study of an image.

        This is the study in the header. If the header does not name a study, the folder of a DICOM image counts as its
        study, and an image in any other format counts as a study by itself.
        """
        if item.identity.study:
            return cls(item.identity.study, patient)
        first = _relative(item.files[0], source)
        if item.parts[0].reader == DICOM:
            return cls(f"{Path(first).parent}/", patient)
        return cls(f"{first}#{item.index or 0}")

    def name(self, names: SiteNames, *, is_shared: bool) -> str:
        """Return the pseudonym of the study.

        If several patients share the study identifier (`is_shared`), the pseudonym also depends on the patient.
        """
        return names.study(self.study, patient=self.patient) if is_shared else names.study(self.study)


def _warn_of(grouped: Sequence[Study], keys: Collection[StudyKey]) -> None:
    """Warn about studies of several patients, and about similar PatientIDs that may belong to one patient.

    The warnings name the pseudonyms of the studies.
    """
    if shared := [study.name for study in grouped if study.num_others]:
        log.warning("predict: several patients share a StudyInstanceUID; each gets a study: %s", ", ".join(shared))
    for alike in spelled_alike(key.patient for key in keys):
        of = [study.name for study, key in zip(grouped, sorted(keys), strict=True) if key.patient in alike]
        text = f"{len(alike)} PatientIDs differ only in spaces, case or zeros, and count as {len(alike)} patients"
        log.warning("predict: %s: studies %s", text, ", ".join(of))


class RefusedHeader(NamedTuple):
    """Header of a refused image, and its patient (`records.patients_of`)."""

    header: Header
    patient: str


@dataclass(frozen=True)
class Belongings:
    """Refused images by study.

    `num_unreadable` counts files whose header cannot be read. `strays` are refused images whose study is unknown.
    """

    refused: dict[StudyKey, list[Refusal]]
    """Refused series that would fit the model. A study whose images are all refused has an entry too."""
    num_unreadable: Counter[StudyKey]
    strays: list[Refusal]

    @classmethod
    def of(
        cls,
        refusals: Sequence[tuple[Refusal, RefusedHeader | None]],
        items: Mapping[StudyKey, Sequence[Item]],
        source: Path,
        applies_to: AppliesTo,
    ) -> Belongings:
        """Assign each refused image to a study.

        This is the study in its header. If the header cannot be read, it is the study of the DICOM images in the same
        folder, provided that they all belong to one study.
        """
        folders: dict[Path, set[StudyKey]] = defaultdict(set)
        for key, group in items.items():
            for path in (path for item in group if item.parts[0].reader == DICOM for path in item.files):
                folders[path.parent].add(key)
        belongings = cls(defaultdict(list), Counter(), [])
        for refusal, found in refusals:
            beside = folders.get(refusal.files[0].parent, set())
            if found is not None:
                header = found.header
                study = header.study or f"{Path(_relative(refusal.files[0], source)).parent}/"
                fits = is_of_modality(header.modality, applies_to) and is_described(header.description, applies_to)
                fits &= applies_to.kind == "volume" or not header.is_slice  # the failed slices would form a volume
                belongings.refused[StudyKey(study, found.patient)] += [refusal] if fits else []
            elif len(beside) == 1:
                belongings.num_unreadable[next(iter(beside))] += len(refusal.files)
            else:
                belongings.strays.append(refusal)
        return belongings


def choose(study: Study, applies_to: AppliesTo, series: SeriesChoice = "best") -> tuple[Item, ...]:
    """Return the series of a study to which a model applies.

    `series` decides what happens if several series match. `all` returns all of them, and `one` raises an error. `best`
    returns the series with the most slices (frames or files). Among series with equally many slices, the one with more
    bytes is returned; if these are equal too, the one whose identifier sorts first.

    Raises:
        NoSeriesError: If no series fits. The message lists the study's series by modality and kind.
        DataError: If the only fitting series was refused, or several series fit and `one` was requested.
    """
    fitting = [item for item in study.items if _fits(item, applies_to)]
    if not fitting and study.refusals:
        raise _refused(study.refusals[0])
    if not fitting:
        raise NoSeriesError(f"the study has {_inventory(study.items)}; {_wanted(applies_to)}")
    if len(fitting) > 1 and series == "one":
        raise DataError(
            f"{len(fitting)} series fit the model; narrow applies_to.description or give series=best or all"
        )
    ordered = sorted(
        fitting,
        key=lambda item: (-len(item.frames or item.files), -_num_bytes(item), study.series_key(item), item.files),
    )
    return tuple(ordered) if series == "all" else tuple(ordered[:1])


def num_fitting(study: Study, applies_to: AppliesTo) -> int:
    """Return the number of series of a study that fit a model."""
    return sum(_fits(item, applies_to) for item in study.items)


def check_rule(applies_to: AppliesTo) -> AppliesTo:
    """Return the rule unchanged if its regular expressions and limits are valid.

    Raises:
        ConfigError: If one of them is not.
    """
    for name in ("description", "body_part"):
        try:
            re.compile(getattr(applies_to, name) or "")
        except re.error as error:
            raise ConfigError(f"applies_to.{name} is not a regular expression: {error}") from None
    for name in ("spacing_mm", "num_slices"):
        limits = getattr(applies_to, name)
        if limits is not None and limits[0] > limits[1]:
            raise ConfigError(f"applies_to.{name} is {list(limits)}; expected the lowest value first")
    return applies_to


def _fits(item: Item, applies_to: AppliesTo) -> bool:
    return next(misfits(item, applies_to), None) is None


def _wanted(applies_to: AppliesTo) -> str:
    rule = f" whose description matches {applies_to.description!r}" if applies_to.description else ""
    others = [name for name in FURTHER if getattr(applies_to, name) is not None]
    further = f", with the {', '.join(others)} of applies_to; explain=true lists why" if others else ""
    return f"the model takes {applies_to.modality or 'any modality'} as {applies_to.kind}{rule}{further}"


def _inventory(items: Sequence[Item]) -> str:
    counts = Counter(f"{item.modality or 'unknown modality'} as {item.kind}" for item in items)
    return (
        ", ".join(f"{number} series of {what}" for what, number in sorted(counts.items()))
        or "no series that can be read"
    )


def _refused(refusal: Refusal) -> DataError:
    error = DataError(refusal.reason)
    error.code = refusal.code  # type: ignore[misc]
    return error


def _header(path: Path) -> Header | None:
    if not path.is_file():  # a named pipe, which must not be waited for, or a missing file
        return None
    try:
        with decoding("the DICOM header"):
            return read_header(path)
    except MedvitError:  # the readers have reported why; here it only means that the patient is unknown
        return None


def _num_bytes(item: Item) -> int:
    return sum(path.stat().st_size for path in item.files)


def _relative(path: Path, source: Path) -> str:
    root = source.parent if source.is_file() else source
    return path.relative_to(root).as_posix()
