"""Record of the deletion of patients from an artifact, by digests, without identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from medvit.errors import DataError
from medvit.files.atomic import write_text

FILE_NAME = "deletions.json"
DIGEST_LETTERS = 32


@dataclass(frozen=True)
class Deletion:
    """Deletion of the data of one patient from an artifact.

    `patient` is a digest of the pseudonym, `before` and `after` are the digests of the artifact, which are empty for
    artifacts without one, and `counts` are the numbers of what was removed.
    """

    patient: str
    time: str
    before: str = ""
    after: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)


def digest_of_patient(pseudonym: str) -> str:
    """Return a digest by which a holder of the pseudonym recognizes the record of its deletion."""
    return hashlib.sha256(f"medvit deleted {pseudonym}".encode()).hexdigest()[:DIGEST_LETTERS]


def deletions(folder: Path) -> tuple[Deletion, ...]:
    """Return the deletions from an artifact, in order.

    Raises:
        DataError: If the record is damaged.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return ()
    try:
        return tuple(Deletion(**one) for one in json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise DataError(f"{path} is damaged and cannot be read; restore it from a backup") from None


def add_deletion(folder: Path, deletion: Deletion) -> None:
    """Add a deletion to the record of an artifact."""
    found = [asdict(one) for one in (*deletions(folder), deletion)]
    write_text(folder / FILE_NAME, json.dumps(found, indent=2) + "\n")
