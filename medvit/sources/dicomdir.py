"""DICOMDIR of a medium, such as a CD from another hospital: the files it refers to, and those that are missing.

A DICOMDIR (PS3.10 8.6, PS3.3 F) names files by components of at most 8 upper-case characters. On copied media, the file
names may be in lower case, end with a dot, or have a version number, so these forms are tried too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medvit.errors import DataError
from medvit.records import Refusal
from medvit.sources import Local, SourceRequest, local_path

NAME = "DICOMDIR"
MISSING = "missing"
"""Refusal code of a missing file that the directory refers to."""
IN_USE = 0xFFFF
"""Value of (0004,1410) RecordInUseFlag of an active record; 0 marks a removed one (PS3.3 F.3.2.2)."""


class DicomDirectory:
    """DICOMDIR file, given as the source."""

    name = "dicomdir"

    def knows(self, location: str) -> bool:
        """Return whether the location is a file named DICOMDIR."""
        path = local_path(location)
        return path is not None and path.name.upper().startswith(NAME) and path.is_file()

    def fetch(self, place: SourceRequest) -> Local:
        """Return the files that the DICOMDIR refers to, without copying them.

        Raises:
            DataError: If the DICOMDIR cannot be read, does not refer to any file, or all its files are missing.
        """
        path = Path(place.location)
        files: set[Path] = set()
        missing: set[Path] = set()
        for parts in _references(path):
            found = _find(path.parent, parts)
            if found is None:
                missing.add(path.parent.joinpath(*(part for part in parts if part not in ("", ".", ".."))))
            else:
                files.add(found)
        if not files:
            raise DataError(
                f"all {len(missing)} files that the DICOMDIR refers to are missing; copy the whole medium"
                if missing
                else "the DICOMDIR has no reference to a file; give source=PATH of the folder instead"
            )
        reason = "the DICOMDIR refers to it, but it is missing; copy the whole medium"
        return Local(
            path.parent,
            tuple(sorted(files)),
            tuple(Refusal((file,), MISSING, reason) for file in sorted(missing)),
        )


def _references(path: Path) -> Iterator[tuple[str, ...]]:
    """Yield the components of (0004,1500) ReferencedFileID for every active record."""
    import pydicom

    try:
        records = pydicom.dcmread(path).DirectoryRecordSequence
        for record in records:
            reference = record.get("ReferencedFileID")
            if reference and record.get("RecordInUseFlag", IN_USE) != 0:
                yield (reference,) if isinstance(reference, str) else tuple(map(str, reference))
    except Exception as error:  # a damaged directory makes pydicom raise almost any error, and quote it
        raise DataError(
            f"the DICOMDIR cannot be read ({type(error).__name__}); give source=PATH of the folder instead"
        ) from None


def _find(folder: Path, parts: tuple[str, ...]) -> Path | None:
    """Return the file in a folder that a DICOMDIR refers to; None if it is missing.

    `parts` are the components of the reference. The different forms in which media are copied are all tried.
    """
    if any(part in ("", ".", "..") or "/" in part or "\\" in part or "\0" in part for part in parts):
        return None
    path = folder
    for part in parts:
        path = path / part
        if not path.exists():
            wanted = _plain(part)
            siblings = path.parent.iterdir() if path.parent.is_dir() else ()
            match = next((p for p in sorted(siblings) if _plain(p.name) == wanted), None)
            if match is None:
                return None
            path = match
    return path if path.is_file() else None


def _plain(name: str) -> str:
    """Return a name as on the original medium: upper case, without the dot and version of ISO 9660."""
    return name.upper().partition(";")[0].rstrip(".")


SOURCE = DicomDirectory()
