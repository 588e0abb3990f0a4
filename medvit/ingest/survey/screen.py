"""A survey as lines for a terminal: counts, sizes and words that cannot name a person."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

from medvit.ingest.survey.found import Survey
from medvit.ingest.survey.images import ImageGroup
from medvit.ingest.survey.names import names_nobody
from medvit.ingest.survey.tables import FoundTable

WIDTH = 100
SHOWN_GROUPS, SHOWN_REASONS, SHOWN_TABLES = 6, 5, 3
"""Maximum number of image groups, refusal reasons and tables that are shown; the rest are counted."""
SHOWN_CLASSES, SHOWN_COLUMNS = 8, 12


def screen(survey: Survey) -> list[str]:
    """Return text lines on the contents of a source and its refusals: about 30 lines of `WIDTH` columns at most."""
    sections: Mapping[str, Iterable[str]] = {
        "Images": _images(survey),
        "Patients": _patients(survey),
        "Labels": _labels(survey),
        "Refused": _refused(survey),
    }
    lines = [f"{survey.num_files} files. Only headers were read, no pixels."]
    for title, found in sections.items():
        for n, text in enumerate(found):
            first = f"{title if n == 0 else '':<11}"
            lines += textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=" " * 13)
    return lines


def counted(number: int, what: str) -> str:
    """Return a number with its noun, such as `1 study` or `3 studies`."""
    if number == 1:
        return f"1 {what}"
    plural = what if what == "series" else f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{number} {plural}"


def classes_in_words(counts: Mapping[str, int]) -> str:
    """Return a list of classes with their numbers of images, as text.

    Classes whose names may name a person are only counted.
    """
    shown = [f"{name} ({number})" for name, number in counts.items() if names_nobody(name)]
    hidden = len(counts) - len(shown)
    rest = len(shown) - SHOWN_CLASSES
    shown = shown[:SHOWN_CLASSES] + ([f"{rest} more"] if rest > 0 else [])
    if hidden:
        shown.append(f"{hidden} not shown, as their names may name people")
    return ", ".join(shown)


def _images(survey: Survey) -> Iterator[str]:
    if not survey.groups:
        yield "none that can be used"
    for group in survey.groups[:SHOWN_GROUPS]:
        yield _group(group)
    rest = survey.groups[SHOWN_GROUPS:]
    if rest:
        yield f"{sum(len(group.candidates) for group in rest)} more, of {counted(len(rest), 'kind')}"


def _group(group: ImageGroup) -> str:
    text = [f"{counted(len(group.candidates), group.kind)}, {group.modality or 'modality not stated'}"]
    if group.num_studies:
        text.append(f"{counted(group.num_studies, 'study')}, {group.num_series} series")
    if group.extents:
        text += _extents(group)
    return "; ".join(text)


def _extents(group: ImageGroup) -> Iterator[str]:
    of = "" if len(group.extents) == len(group.candidates) else f" ({len(group.extents)} read)"
    unit = "voxels" if group.kind == "volume" else "pixels"
    yield f"{_ranges([one.shape for one in group.extents])} {unit}{of}"
    if group.kind != "volume":
        yield "in color" if group.channels == 3 else "gray"
    if group.spacings_mm:
        yield f"spacing {_ranges(group.spacings_mm)} mm (R, A, S)"
    scales = sorted({round(one.mpp, 3) for one in group.extents if one.mpp is not None})
    if scales:
        low, high = scales[0], scales[-1]
        per = "microns" if group.kind == "slide" else "mm"
        factor = 1.0 if group.kind == "slide" else 1000.0
        yield f"{_range(low / factor, high / factor)} {per} a pixel"


def _ranges(sizes: Sequence[Sequence[float]]) -> str:
    """Return ranges of sizes, such as `256-512 x 256 x 20-30`.

    Sizes with different numbers of axes are listed separately.
    """
    ranks = sorted({len(size) for size in sizes})
    return " or ".join(
        " x ".join(_range(min(axis), max(axis)) for axis in zip(*(s for s in sizes if len(s) == rank), strict=True))
        for rank in ranks
    )


def _range(low: float, high: float) -> str:
    first, last = (f"{value:.0f}" if isinstance(value, int) else f"{value:.3g}" for value in (low, high))
    return first if first == last else f"{first}-{last}"


def _patients(survey: Survey) -> Iterator[str]:
    count = survey.num_patients
    if not count.total:
        return
    by_path = count.total - count.assumed - survey.num_by_id
    if survey.num_by_id:
        yield f"{counted(survey.num_by_id, 'patient')} with an identifier in the files or the table"
    if by_path:
        yield f"{counted(by_path, 'patient')} named by the path"
    if count.assumed:
        yield f"{count.assumed} assumed: nothing names them, so each image, series or study counts as one"
    if survey.patients is not None:
        yield f"paths seem to name {survey.patients.num_patients} patients, see patient_from in ingest.yaml"


def _labels(survey: Survey) -> Iterator[str]:
    found = False
    if survey.folders is not None:
        found = True
        what = "used as labels" if survey.folders.are_taken else "not used, see label_from in ingest.yaml"
        folders = counted(len(survey.folders.counts), "folder")
        yield f"{folders} that look like classes, {what}: {classes_in_words(survey.folders.counts)}"
    for table in survey.tables[:SHOWN_TABLES]:
        found = True
        yield _table(table, is_taken=table is survey.table)
    if len(survey.tables) > SHOWN_TABLES:
        yield f"{counted(len(survey.tables) - SHOWN_TABLES, 'more table')}"
    for key in survey.label_keys if not (survey.table or survey.folders) else ():
        found = True
        yield f"{key}, in the files: {classes_in_words(survey.classes(key))}"
    if survey.num_masks:
        found = True
        of = sum(len(group.candidates) for group in survey.groups)
        yield f"{survey.num_masks} of {counted(of, 'image')} have a label map {' or '.join(survey.mask_folders)}"
    if not found and survey.groups:
        yield "not found (class folders, tables, label maps); pretraining works without labels"


def _table(table: FoundTable, *, is_taken: bool) -> str:
    text = f"table of {counted(table.num_lines, 'line')}"
    if table.by is None:
        return f"{text}, without a column that names images of this source; not used"
    columns = [f"{one} ({table.classes[one]} values)" if one in table.classes else one for one in table.columns]
    shown = ", ".join(columns[:SHOWN_COLUMNS]) + (", ..." if len(columns) > SHOWN_COLUMNS else "")
    use = "used as labels" if is_taken else "not used, see ingest.yaml"
    return f"{text}, {table.num_matched} of which name images by {table.key} ({table.by}); {use}. Columns: {shown}"


def _refused(survey: Survey) -> Iterator[str]:
    for reason in survey.refused[:SHOWN_REASONS]:
        yield f"{counted(reason.num_files, 'file')} ({reason.code}): {reason.text}"
    rest = survey.refused[SHOWN_REASONS:]
    if rest:
        yield f"{counted(sum(one.num_files for one in rest), 'file')} for {counted(len(rest), 'other reason')}"
