"""Which images make one study, and which series of it a model was made for."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medvit.deidentification.pseudonyms import SiteNames
from medvit.dicom.header import Header, read_header
from medvit.errors import ConfigError, DataError, MedvitError, NotAnImageError
from medvit.files.guard import decoding
from medvit.readers.label_maps import ORPHAN
from medvit.records import Item, Refusal
from medvit.writers import Study

if TYPE_CHECKING:
    from medvit.models.image import AppliesTo

SeriesChoice = Literal["best", "all", "one"]
DICOM = "dicom"
"""The reader whose images know their study; any other image is a study of its own."""


class NoSeriesError(DataError):
    """A study without a series that the model was made for: it is skipped, which is no failure."""

    code = "no_series"


@dataclass(frozen=True)
class StudyIndex:
    """What a source holds: studies in the order of their pseudonyms, and a count of the files that are no images.

    An image that cannot be read and belongs to no study that can is a study of its own, without items.
    """

    studies: tuple[Study, ...]
    num_ignored: int = 0
    """Files that are no images."""


def studies(found: Iterable[Item | Refusal], source: Path, names: SiteNames, applies_to: AppliesTo) -> StudyIndex:
    """Groups what the readers found in `source` by study.

    DICOM images are grouped by Study Instance UID (0020,000D), or by folder where it is empty; any other image is a
    study. A refused series that the model was made for is kept with its study, so that a study whose only fitting
    series is broken counts as failed and not as skipped.
    """
    items: dict[str, list[Item]] = defaultdict(list)
    refusals: list[Refusal] = []
    for entry in found:
        if isinstance(entry, Refusal):
            refusals.append(entry)
        else:
            items[_study_key(entry, source)].append(entry)
    images = [refusal for refusal in refusals if refusal.code not in (NotAnImageError.code, ORPHAN)]
    belongings = Belongings.of(images, items, source, applies_to)
    grouped = [
        Study(names.study(key), tuple(items[key]), tuple(belongings.refused[key]), belongings.num_unreadable[key])
        for key in sorted(items.keys() | belongings.refused.keys())
    ]
    strays = [Study(names.study(_relative(stray.files[0], source)), (), (stray,)) for stray in belongings.strays]
    return StudyIndex(tuple(sorted([*grouped, *strays], key=lambda s: s.name)), len(refusals) - len(images))


@dataclass(frozen=True)
class Belongings:
    """Which study each refused image belongs to, by study key."""

    refused: dict[str, list[Refusal]]
    """Refused series that would have fitted the model; a study of which all was refused has an entry too."""
    num_unreadable: Counter[str]
    strays: list[Refusal]

    @classmethod
    def of(
        cls, refusals: Sequence[Refusal], items: Mapping[str, Sequence[Item]], source: Path, applies_to: AppliesTo
    ) -> Belongings:
        """Finds it from the header of a refused file, else from the DICOM images in its folder."""
        folders = {
            path.parent: key for key, group in items.items() for i in group if i.reader == DICOM for path in i.files
        }
        belongings = cls(defaultdict(list), Counter(), [])
        for refusal in refusals:
            header = _header(refusal.files[0])
            folder = refusal.files[0].parent
            if header is not None:
                key = header.study or f"{Path(_relative(refusal.files[0], source)).parent}/"
                fits = _described(header.modality, header.description, applies_to)
                fits &= applies_to.kind == "volume" or not header.is_slice  # slices that fail were to be a volume
                belongings.refused[key] += [refusal] if fits else []
            elif folder in folders:
                belongings.num_unreadable[folders[folder]] += len(refusal.files)
            else:
                belongings.strays.append(refusal)
        return belongings


def choose(study: Study, applies_to: AppliesTo, series: SeriesChoice = "best") -> tuple[Item, ...]:
    """The series of a study that a model was made for.

    Several that fit: `all` takes every one; `best` the one with most files, then most bytes, then the first identifier;
    `one` refuses.

    Raises:
        NoSeriesError: If none fits; the reason says by modality and kind what the study has.
        DataError: If the only one that fits could not be taken, or several fit and `one` was asked for.
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
    """How many series of a study a model fits."""
    return sum(_fits(item, applies_to) for item in study.items)


def check_rule(applies_to: AppliesTo) -> AppliesTo:
    """The rule itself, if its regular expression can be read.

    Raises:
        ConfigError: If it cannot.
    """
    try:
        re.compile(applies_to.description or "")
    except re.error as error:
        raise ConfigError(f"applies_to.description is no regular expression: {error}") from None
    return applies_to


def _fits(item: Item, applies_to: AppliesTo) -> bool:
    if item.kind != applies_to.kind:
        return False
    # A PNG or NIfTI file says neither modality nor description: who gives it to a model vouches for it.
    return item.reader != DICOM or _described(item.modality, item.description, applies_to)


def _described(modality: str, description: str, applies_to: AppliesTo) -> bool:
    if applies_to.modality and modality.upper() != applies_to.modality.upper():
        return False
    return not applies_to.description or re.search(applies_to.description, description, re.IGNORECASE) is not None


def _wanted(applies_to: AppliesTo) -> str:
    rule = f" whose description matches {applies_to.description!r}" if applies_to.description else ""
    return f"the model takes {applies_to.modality or 'any modality'} as {applies_to.kind}{rule}"


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
    try:
        with decoding("the DICOM header"):
            return read_header(path)
    except MedvitError:  # the readers have told why; here it only means that nothing says whose the file is
        return None


def _num_bytes(item: Item) -> int:
    return sum(path.stat().st_size for path in item.files)


def _study_key(item: Item, source: Path) -> str:
    if item.identity.study:
        return item.identity.study
    first = _relative(item.files[0], source)
    return f"{Path(first).parent}/" if item.reader == DICOM else f"{first}#{item.index or 0}"


def _relative(path: Path, source: Path) -> str:
    root = source.parent if source.is_file() else source
    return path.relative_to(root).as_posix()
