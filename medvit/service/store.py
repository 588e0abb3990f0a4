"""Store of received instances: an instance counts as received once its file and its row are on disk.

A file is written and synchronized under a temporary name, renamed, and its row is written, in this order. If the
service is killed in between, the file without a row is taken up at the next start.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medvit.deidentification import crosswalk
from medvit.deidentification.pseudonyms import SiteNames
from medvit.errors import MedvitError, OutputError
from medvit.files.private import OWNER_FILE, OWNER_FOLDER
from medvit.service.audit_trail import AuditTrail
from medvit.service.database import Database
from medvit.service.instance import ReceivedInstance
from medvit.service.options import ReceiveConfig

RECEIVED, INCOMING, ASIDE = "received", "incoming", "aside"
"""Folders of the files: of studies, of unfinished files, and of instances that contradict others."""
RESULTS, WORK = "results", "work"
"""Folders of finished and of unfinished results."""
GIB = 2**30
CONFLICT, SHARED_UID, PERSON_DIFFERS, TOO_LARGE, DELETED, INCOMPLETE = (
    "instance_differs",
    "shared_study_uid",
    "patient_differs",
    "too_large",
    "images_deleted",
    "incomplete",
)
"""Codes of the reasons why a study waits for a person."""
REASONS = {
    CONFLICT: "an instance came again with other content under the same UID; the later one was set aside",
    SHARED_UID: "studies of several patients have the same StudyInstanceUID",
    PERSON_DIFFERS: "patient or order differ among the instances of the study",
    TOO_LARGE: "the study is larger than receive.max_study_gib or receive.max_study_instances allows",
    DELETED: "new instances came after the images of the study were deleted; send the whole study again",
}

Admitted = Literal["stored", "known", "aside", "refused"]
"""Outcome for an instance. known: it was received before. aside: it contradicts an earlier one, which is kept. refused:
the study has reached its limits.
"""


@dataclass
class InstanceStore:
    """Instances in the folder of the service.

    `arrived` is called with the pseudonym of a study after each of its instances.
    """

    folder: Path
    database: Database
    names: SiteNames
    key: Path
    audit: AuditTrail
    limits: ReceiveConfig
    min_free_gib: float
    arrived: Callable[[str], None] = lambda name: None
    counts: Counter[str] = field(default_factory=Counter)
    """Number of instances since the start, by outcome."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        for name in (RECEIVED, INCOMING, ASIDE):
            (self.folder / name).mkdir(mode=OWNER_FOLDER, exist_ok=True)
        for left in (self.folder / INCOMING).iterdir():
            left.unlink()

    @property
    def free_bytes(self) -> int:
        """Return the free space of the disk."""
        return shutil.disk_usage(self.folder).free

    @property
    def lack_of_space(self) -> str:
        """Return the reason to give if the disk has no room."""
        return f"less than min_free_gib={self.min_free_gib:g} GiB of the disk are free; make room"

    def has_space(self, num_bytes: int = 0) -> bool:
        """Return whether the disk would have `min_free_gib` left after more bytes."""
        return self.free_bytes - num_bytes >= self.min_free_gib * GIB

    def admit(self, one: ReceivedInstance) -> Admitted:
        """Store an instance; return once it is on disk.

        Raises:
            OutputError: If the disk is full, or the database cannot be written.
            OSError: If the file cannot be written.
        """
        if not self.has_space(len(one.content)):
            raise OutputError(self.lack_of_space)
        partial = self.folder / INCOMING / f"{_file_name(one.uid)}.{threading.get_ident()}"
        try:
            _write_synced(partial, one.content)
            with self._lock:
                outcome, study = self._admitted(one, partial)
        finally:
            partial.unlink(missing_ok=True)
        self.counts[outcome] += 1
        if outcome == "stored":
            self.arrived(study)
        return outcome

    def _admitted(self, one: ReceivedInstance, partial: Path) -> tuple[Admitted, str]:
        """Give a file its place and write its row; without the row, as on a full disk, the file is removed again."""
        moved: list[Path] = []
        try:
            with self.database.transaction():
                return self._admit(one, partial, moved)
        except BaseException:
            for path in moved:
                path.unlink(missing_ok=True)
            raise

    def _admit(self, one: ReceivedInstance, partial: Path, moved: list[Path]) -> tuple[Admitted, str]:
        known = self.database.row("SELECT * FROM instances WHERE uid = ?", one.uid)
        if known is not None and known["sha256"] == one.sha256:
            return "known", known["study"]
        study = self._study_of(one)
        if known is not None:
            if self._set_aside(one, partial, study):
                self.hold(known["study"], CONFLICT)
                self.hold(study, CONFLICT)
            return "aside", study
        if self._is_too_large(study, len(one.content)):
            self.hold(study, TOO_LARGE)
            return "refused", study
        place = self.folder / RECEIVED / study
        place.mkdir(mode=OWNER_FOLDER, exist_ok=True)
        os.replace(partial, place / _file_name(one.uid))
        moved.append(place / _file_name(one.uid))
        _sync_folder(place)
        _sync_folder(place.parent)
        self.database.write(
            "INSERT INTO instances VALUES (?, ?, ?, ?, ?)",
            one.uid,
            study,
            _file_name(one.uid),
            one.sha256,
            len(one.content),
        )
        self._update(study, one)
        return "stored", study

    def _study_of(self, one: ReceivedInstance) -> str:
        """Return the pseudonym of the study of an instance, and add the study if it is new.

        If several patients share its StudyInstanceUID, each has a study, and all of them wait for a person.
        """
        owner = self.names.state("owner of a study", *one.owner)
        found = self.database.rows("SELECT name, owner FROM studies WHERE uid = ?", one.study)
        for row in found:
            if row["owner"] == owner:
                return str(row["name"])
        name = self.names.study(one.study, patient=str(one.owner)) if found else self.names.study(one.study)
        crosswalk.write(self.key, f"serve-{self.folder.name}", self.names.given.items())
        self.names.given.clear()
        self.database.write(
            "INSERT INTO studies (name, uid, owner, identity, began, changed) VALUES (?, ?, ?, ?, ?, ?)",
            name,
            one.study,
            owner,
            self._identity(one),
            time.time(),
            time.time(),
        )
        if found:
            for other in [name, *(row["name"] for row in found)]:
                self.hold(other, SHARED_UID)
        return name

    def _identity(self, one: ReceivedInstance) -> str:
        return self.names.state("person of a study", *one.person)

    def _update(self, study: str, one: ReceivedInstance) -> None:
        """Reopen a study for a new instance; hold it if the instance names another person or order."""
        row = self.database.rows("SELECT state, identity FROM studies WHERE name = ?", study)[0]
        if row["state"] == "deleted":
            self.hold(study, DELETED)
        elif row["identity"] != self._identity(one):
            self.hold(study, PERSON_DIFFERS)
        self.database.write("UPDATE studies SET changed = ? WHERE name = ?", time.time(), study)
        self.database.write("UPDATE studies SET state = 'receiving' WHERE name = ? AND state = 'complete'", study)

    def hold(self, study: str, code: str, reason: str = "") -> None:
        """Let a study wait for a person, unless a person has released it from the same reason before."""
        with self.database.transaction():
            row = self.database.rows("SELECT code, reason, state, released FROM studies WHERE name = ?", study)[0]
            codes = row["code"].split()
            if code in codes or (code in row["released"].split() and code != CONFLICT):
                return
            reasons = [*filter(None, [row["reason"]]), reason or REASONS[code]]
            self.database.write(
                "UPDATE studies SET state = 'held', code = ?, reason = ?, changed = ? WHERE name = ?",
                " ".join([*codes, code]),
                "; ".join(reasons),
                time.time(),
                study,
            )
        self.audit.add("held", study, code=code)

    def _set_aside(self, one: ReceivedInstance, partial: Path, study: str) -> bool:
        """Keep an instance that contradicts an earlier one; return False if it was set aside before."""
        if self.database.row("SELECT 1 FROM aside WHERE uid = ? AND sha256 = ?", one.uid, one.sha256) is not None:
            return False
        name = f"{study}-{one.sha256[:32]}.dcm"
        os.replace(partial, self.folder / ASIDE / name)
        _sync_folder(self.folder / ASIDE)
        self.database.write("INSERT INTO aside VALUES (?, ?, ?, ?)", one.uid, one.sha256, study, name)
        return True

    def _is_too_large(self, study: str, num_bytes: int) -> bool:
        row = self.database.rows("SELECT count(*), sum(bytes) FROM instances WHERE study = ?", study)[0]
        is_full = row[0] >= self.limits.max_study_instances
        return is_full or (row[1] or 0) + num_bytes > self.limits.max_study_gib * GIB

    def files(self, study: str) -> list[Path]:
        """Return the files of a study, sorted."""
        rows = self.database.rows("SELECT file FROM instances WHERE study = ? ORDER BY file", study)
        return [self.folder / RECEIVED / study / row["file"] for row in rows]

    def digest(self, study: str) -> str:
        """Return a digest of the UIDs and contents of the instances of a study."""
        rows = self.database.rows("SELECT uid, sha256 FROM instances WHERE study = ? ORDER BY uid", study)
        return hashlib.sha256("\n".join(f"{row['uid']} {row['sha256']}" for row in rows).encode()).hexdigest()

    def has(self, uid: str) -> bool:
        """Return whether an instance was received."""
        return self.database.row("SELECT 1 FROM instances WHERE uid = ?", uid) is not None

    def remove_files(self, study: str) -> int:
        """Remove the files of a study from disk, and those of it that were set aside; return their number.

        The rows remain, so that an instance that comes again is recognized.
        """
        files = [*(self.folder / RECEIVED / study).glob("*"), *(self.folder / ASIDE).glob(f"{study}-*")]
        for path in files:
            path.unlink(missing_ok=True)
        shutil.rmtree(self.folder / RECEIVED / study, ignore_errors=True)
        return len(files)

    def take_up(self) -> int:
        """Admit the files without a row, of instances whose success was not answered; return their number.

        Files that cannot be admitted are removed: their sender still has them.
        """
        left = 0
        for place in sorted((self.folder / RECEIVED).iterdir()):
            rows = self.database.rows("SELECT file FROM instances WHERE study = ?", place.name)
            known = {row["file"] for row in rows}
            for path in sorted(one for one in place.iterdir() if one.name not in known):
                try:
                    one = ReceivedInstance.of(path.read_bytes())
                    path.unlink()
                    self.admit(one)
                    left += 1
                except (MedvitError, OSError):
                    path.unlink(missing_ok=True)
        return left


def _file_name(uid: str) -> str:
    return f"{hashlib.sha256(uid.encode()).hexdigest()[:32]}.dcm"


def _write_synced(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, OWNER_FILE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
