"""De-identified DICOM copy of the images in a dataset, in one folder per patient, study and series.

Each file is written atomically, under its pseudonyms. A resumed run writes only the missing files. The folder gets its
final name when all files are written.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import field_validator, model_validator

from medvit.config import Config
from medvit.deidentification.burned_in import BurnedInConfig, BurnedInError, frames_in, to_mask
from medvit.deidentification.cleaning import METHOD, Replacements, deidentified
from medvit.deidentification.pixels import blank
from medvit.deidentification.profile import CODES, SAFE_PRIVATE, Option, Profile, parse_private
from medvit.deidentification.pseudonyms import Pseudonyms
from medvit.deidentification.text_detector import TextLine, find_lines
from medvit.dicom.element_values import derived_uid
from medvit.dicom.header import load
from medvit.engine import EngineConfig, map_items
from medvit.engine.outcome import Outcome
from medvit.errors import ConfigError, MedvitError, OutputError
from medvit.files.atomic import write_text
from medvit.files.guard import decoding
from medvit.records import Candidate, Taken
from medvit.series import mosaic

log = logging.getLogger("medvit")

SUMMARY = "deidentified.json"
CARD = "card.md"
MOSAICS = (
    "%d copied images are Siemens mosaics: the copy states how many slices each has, but their direction is "
    "recorded only in a private element, which the copy lacks, so tools guess it and medvit refuses them"
)
MOSAIC_PRIVATE = "SIEMENS CSA HEADER:0029,10"


class DeidentifyConfig(Config):
    """De-identified DICOM copy (PS3.15 Annex E). `deidentify=FOLDER` is short for `deidentify.copy_to=FOLDER`."""

    copy_to: Path | None = None
    """Folder for a de-identified DICOM copy of the ingested images. Unset: no copy is made."""
    options: tuple[Literal["dates", "device", "characteristics", "descriptors", "uids"], ...] = (
        "dates",
        "device",
        "characteristics",
        "descriptors",
    )
    """Information that the copy retains, as defined by the options of PS3.15 Annex E. Retained dates are shifted, and
    retained descriptors keep only common words.
    """
    words: tuple[str, ...] = ()
    """Words to keep in descriptors in addition to imaging terms, such as names of your site's protocols (FlashXY,
    KneeStd).
    """
    private: tuple[str, ...] = SAFE_PRIVATE
    """Private elements to keep, each given as CREATOR:gggg,ee. All others are removed."""

    SHORT: ClassVar[str] = "copy_to"

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {cls.SHORT: value} if isinstance(value, str | Path) else value

    @field_validator("private")
    @classmethod
    def _are_elements(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            parse_private(value)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return value

    @property
    def profile(self) -> Profile:
        """Return the de-identification profile with these options."""
        options: frozenset[Option] = frozenset(self.options)
        return Profile(options, frozenset(self.private), frozenset(word.casefold() for word in self.words))

    def check(self, *, resume: bool) -> None:
        """Check that the copy can be written to its folder.

        Raises:
            OutputError: If the folder exists, or contains an unfinished copy and the run does not resume.
        """
        if self.copy_to is None:
            return
        if self.copy_to.exists() and (not self.copy_to.is_dir() or any(self.copy_to.iterdir())) and not resume:
            raise OutputError(f"{self.copy_to} exists already; give another deidentify.copy_to=... or remove it first")
        if _partial(self.copy_to).exists() and not resume:
            raise OutputError(
                f"{_partial(self.copy_to)} contains an unfinished copy; continue with resume=true, or remove it"
            )


@dataclass(frozen=True)
class CopyJob:
    """Files of one image to copy; `writing` states what ingest did with burned-in text (masked, kept, or empty)."""

    candidate: Candidate = field(repr=False)
    files: Mapping[Path, Path] = field(repr=False)
    """Source file -> its place in the copy."""
    writing: str


@dataclass(frozen=True)
class Copied:
    """Result of a job: the number of files that were written or existed already.

    `is_open` is False if the copy lacks elements by which the slices of a Siemens mosaic are located.
    """

    num_files: int
    is_open: bool


@dataclass(frozen=True)
class CopyReport:
    """Outcome of a copy.

    `failures` has a line for each image that could not be copied. `notes` are about copied images that people should
    review.
    """

    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CopyFiles:
    """Function object that copies the files of a job; files that exist already are kept."""

    profile: Profile
    pseudonyms: Pseudonyms = field(repr=False)
    burned_in: BurnedInConfig

    def __call__(self, job: CopyJob) -> Copied:
        """Copy the files of a job; return the result.

        Raises:
            DataError: If a file cannot be read, or its pixels cannot be cleaned.
            OutputError: If a copy cannot be written.
        """
        by = _replacements(job.candidate, self.pseudonyms)
        lines = self._writing(job.files) if job.writing == "masked" else []
        uids = _derived(next(iter(job.files)))
        is_open = True
        for source, target in job.files.items():
            with decoding("the DICOM file"):
                if target.exists():
                    is_open &= not mosaic.is_closed(load(target, stop_before_pixels=True))
                else:
                    is_open &= self._write(source, target, by, job, lines, uids)
        return Copied(len(job.files), is_open)

    def _write(
        self,
        source: Path,
        target: Path,
        by: Replacements,
        job: CopyJob,
        lines: Sequence[TextLine],
        uids: Mapping[str, str],
    ) -> bool:
        dataset = load(source)
        if job.writing == "masked":
            blank(dataset, lines)
        copy = deidentified(dataset, self.profile, by, writing=job.writing)
        for keyword, uid in uids.items():
            if not copy.get(keyword):
                setattr(copy, keyword, uid if "uids" in self.profile.options else by.uid(uid))
        unfinished = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            copy.save_as(unfinished, enforce_file_format=True)
            os.replace(unfinished, target)
        except OSError as error:
            raise OutputError(
                f"a de-identified copy cannot be written: {error.strerror}; give another folder"
            ) from None
        finally:
            unfinished.unlink(missing_ok=True)
        return not mosaic.is_closed(copy)

    def _writing(self, files: Iterable[Path]) -> Sequence[TextLine]:
        lines = to_mask((frame, find_lines(frame)) for frame in frames_in(files))
        if not lines:
            raise BurnedInError(
                "the image is declared to have burned-in text, but the detector found no text line to blank; check "
                "the image and exclude it"
            )
        return lines


def _replacements(candidate: Candidate, pseudonyms: Pseudonyms) -> Replacements:
    """Return the replacements for the identifiers of an image's patient.

    If the patient shares a study or series UID with another patient, all UIDs of the patient are replaced by UIDs that
    are specific to the patient. References within the copy therefore remain valid.
    """
    patient = candidate.patient
    uid = partial(pseudonyms.uid, patient=patient.id) if candidate.shared_uids else pseudonyms.uid
    return Replacements(pseudonyms.patient(patient), pseudonyms.days(patient), uid)


def _derived(source: Path) -> Mapping[str, str]:
    """Return study and series UIDs, by keyword, for an image whose files lack these UIDs.

    The UIDs are derived from the header of the first file, `source`. DICOM results of predictions use the same UIDs.
    """
    with decoding("the DICOM header"):
        header = load(source, stop_before_pixels=True)
        if not header.get("SOPInstanceUID"):
            stored_uid = str(header.file_meta.get("MediaStorageSOPInstanceUID") or "")
            header.SOPInstanceUID = stored_uid or hashlib.sha256(source.read_bytes()).hexdigest()
        return {keyword: derived_uid(keyword, header) for keyword in ("StudyInstanceUID", "SeriesInstanceUID")}


def write(
    config: DeidentifyConfig,
    candidates: Sequence[Candidate],
    taken: Mapping[str, Taken],
    pseudonyms: Pseudonyms,
    *,
    burned_in: BurnedInConfig,
    engine: EngineConfig,
) -> CopyReport:
    """Write the de-identified copy of all stored DICOM images, and return a report.

    For DICOM slides, the image pyramid is copied one resolution at a time; label and overview images are not copied.
    Images that are not DICOM are reported.

    Raises:
        OutputError: If the folder cannot be written.
    """
    if config.copy_to is None:
        return CopyReport()
    folder = config.copy_to if config.copy_to.exists() and any(config.copy_to.iterdir()) else _partial(config.copy_to)
    chosen = [candidate for candidate in candidates if candidate.key in taken]
    jobs = _jobs([candidate for candidate in chosen if _is_dicom(candidate)], taken, pseudonyms, folder)
    function = CopyFiles(config.profile, pseudonyms, burned_in)
    failures: list[str] = []
    num_files = num_masked = num_closed = 0
    for outcome in map_items(function, jobs, config=engine, title="copy"):
        if outcome.result is None:
            failures.append(f"{pseudonyms.image(outcome.item.candidate)}: no de-identified copy: {_reason(outcome)}")
        else:
            num_files += outcome.result.num_files
            num_closed += not outcome.result.is_open
            num_masked += outcome.item.writing == "masked"
    _sweep(folder)
    _finish(config, folder, num_files, num_masked, num_closed, failures)
    log.info("%d de-identified DICOM files are in %s", num_files, config.copy_to)
    if num_masked:
        log.warning(
            "text found by the detector is blanked in %d copied images; review these images before sharing them",
            num_masked,
        )
    if num_closed:
        log.warning(
            MOSAICS + "; if your site allows it, add %r to deidentify.private",
            num_closed,
            MOSAIC_PRIVATE,
        )
    others = Counter(candidate.item.kind == "slide" for candidate in chosen if not _is_dicom(candidate))
    if others[False]:
        log.warning("%d images are not DICOM; no de-identified copy was written for them", others[False])
    if others[True]:
        log.warning(
            "%d slides are not DICOM; no de-identified copy was written for them: their files, with names, "
            "labels and overview images, remain at their source; share tiles (taking.tiles.pack=true), or "
            "convert the slides to DICOM first",
            others[True],
        )
    notes = [f"de-identified copy: {MOSAICS % num_closed}"] if num_closed else []
    return CopyReport(tuple(failures), tuple(notes))


def _sweep(folder: Path) -> None:
    """Remove temporary files of a killed process; all files of this run are complete at this point."""
    for file in folder.rglob(".*"):
        if re.fullmatch(r"\..+\.dcm\.\d+|\..+\.partial", file.name) and file.is_file():
            file.unlink()


def _is_dicom(candidate: Candidate) -> bool:
    """Return whether the files of a candidate are DICOM.

    A slide is DICOM if it has a series identifier, which no other slide format states.
    """
    item = candidate.item
    if item.kind == "slide":
        return item.reader == "dicom" or bool(item.identity.series)
    return all(part.reader == "dicom" for part in item.parts)


def _jobs(
    candidates: Sequence[Candidate], taken: Mapping[str, Taken], pseudonyms: Pseudonyms, folder: Path
) -> list[CopyJob]:
    jobs, copied = [], set[Path]()
    for candidate in candidates:
        series = (
            folder / pseudonyms.patient(candidate.patient) / pseudonyms.study(candidate) / pseudonyms.series(candidate)
        )
        image = pseudonyms.image(candidate)
        new = [file for file in dict.fromkeys(candidate.item.files) if file not in copied]
        copied.update(new)
        names = (
            [f"{image}.dcm"] if len(new) == 1 else [f"{image}-{number:05d}.dcm" for number in range(1, len(new) + 1)]
        )
        files = {file: series / name for file, name in zip(new, names, strict=True)}
        jobs.append(CopyJob(candidate, files, taken[candidate.key].writing))
    return jobs


def _finish(
    config: DeidentifyConfig, folder: Path, num_files: int, num_masked: int, num_closed: int, failures: Collection[str]
) -> None:
    assert config.copy_to is not None
    done = ["profile", *sorted(config.options), *(["private"] if config.private else [])]
    summary = {
        "method": METHOD,
        "options": [CODES[name][1] for name in done],
        "files": num_files,
        "images_masked": num_masked,
        "mosaics_without_direction": num_closed,
        "images_not_copied": sorted(failures),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
        write_text(folder / CARD, _card(summary, num_masked, num_closed))
        if folder != config.copy_to:
            if config.copy_to.exists():
                config.copy_to.rmdir()
            os.replace(folder, config.copy_to)
    except OSError as error:
        raise OutputError(f"the copy {config.copy_to} cannot be written: {error.strerror}") from None


def _card(summary: Mapping[str, Any], num_masked: int, num_closed: int) -> str:
    """Return the Markdown text that describes the copy to its users."""
    lines = [
        f"{summary['files']} DICOM files, de-identified by {summary['method']}: {', '.join(summary['options'])}.",
        "Comments in compressed pixels, unlisted private elements, overlays and curves were removed.",
    ]
    if num_masked:
        lines.append(f"Text that a detector found is blanked in {num_masked} images; some may be left.")
    if num_closed:
        lines.append(f"{MOSAICS % num_closed}.")
    if summary["images_not_copied"]:
        lines.append(f"{len(summary['images_not_copied'])} images were not copied; `{SUMMARY}` lists why.")
    return "\n\n".join(["# De-identified copy", *lines]) + "\n"


def _partial(folder: Path) -> Path:
    return folder.absolute().with_name(f"{folder.name}.partial")


def _reason(outcome: Outcome[CopyJob, Copied]) -> str:
    error = outcome.error
    if isinstance(error, OutputError):
        raise error
    # The text of a library's error may name a file or a patient.
    return str(error) if isinstance(error, MedvitError) else f"stopped at an unexpected {type(error).__name__}"
