"""Pseudonyms: keyed hashes (HMAC-SHA256, RFC 2104) that replace names, identifiers and paths.

The key is a file that the site keeps private. With the key, the same patient always gets the same pseudonym; without
the key, nobody can find the patient of a pseudonym by hashing possible identifiers.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import secrets
import stat
import uuid
from pathlib import Path

from medvit.errors import ConfigError, OutputError
from medvit.records import Candidate, Identity, Item, Patient

log = logging.getLogger("medvit")

KEY_BYTES = 32
READABLE_BY_OTHERS = 0o077
MIN_DAYS, MAX_DAYS = 366, 3652
"""Range of the date shift of a patient in days: one to ten years into the past."""


class Pseudonyms:
    """Pseudonyms of one dataset.

    An identifier that has a meaning only within the dataset, such as a path, is hashed together with the name of the
    dataset.
    """

    def __init__(self, key: bytes, dataset: str) -> None:
        self._key, self._dataset = key, dataset

    @classmethod
    def with_key_file(cls, path: Path, dataset: str) -> Pseudonyms:
        """Return pseudonyms with the key in a file; the file is created on first use with mode 0600.

        Raises:
            ConfigError: If other users may read the key file, or if it is too short to be a key.
            OutputError: If the key file cannot be created or read.
        """
        path = path.expanduser()
        try:
            if not path.exists():
                _make_key(path)
            mode, key = stat.S_IMODE(path.stat().st_mode), path.read_bytes()
        except OSError as error:
            raise OutputError(f"the key file {path} cannot be used: {error.strerror}; give another key=...") from None
        if mode & READABLE_BY_OTHERS:
            raise ConfigError(f"others may read the key file {path} (its mode is {mode:04o}); run: chmod 600 {path}")
        if len(key) < KEY_BYTES:
            raise ConfigError(
                f"the key file {path} contains {len(key)} bytes; expected at least {KEY_BYTES}: restore it from a "
                "backup, or give another key=..."
            )
        return cls(key, dataset)

    def patient(self, patient: Patient) -> str:
        """Return the pseudonym of a patient."""
        return "p-" + self._digest("patient", "" if patient.is_known_elsewhere else self._dataset, patient.id)[:12]

    def study(self, candidate: Candidate) -> str:
        """Return the pseudonym of an image's study.

        If the image has no study identifier, its series counts as the study. If it has no series identifier either, the
        image itself counts as the study. If several patients of the source share a study identifier, each of them has a
        separate study.
        """
        identity = candidate.item.identity
        if identity.study in candidate.shared_uids:
            # A patient without PatientID is named by the study, which cannot also distinguish patients within it.
            owner = candidate.patient.id
            return self.shared_study(identity.study, "" if owner == identity.study else owner)
        return "s-" + self._uid("study", identity.study or identity.series, candidate)[:12]

    def shared_study(self, study: str, patient: str) -> str:
        """Return the pseudonym of a study for one of several patients that share its identifier."""
        return "s-" + self._digest("study of patient", study, patient)[:12]

    def series(self, candidate: Candidate) -> str:
        """Return the pseudonym of an image's series; an image without a series counts as a series of its own."""
        series = candidate.item.identity.series
        if series in candidate.shared_uids:
            return "e-" + self._digest("series of patient", series, candidate.patient.id)[:12]
        return "e-" + self._uid("series", series, candidate)[:12]

    def site(self, name: str) -> str:
        """Return the pseudonym of an institution; letter case and spaces of its name do not matter."""
        return "h-" + self._digest("institution", " ".join(name.split()).casefold())[:12]

    def image(self, candidate: Candidate) -> str:
        """Return the pseudonym of an image."""
        return "i-" + self._digest("image", self._dataset, candidate.key)[:16]

    def file(self, path: str) -> str:
        """Return the pseudonym of a file, by its path relative to the source."""
        return "f-" + self._digest("file", self._dataset, path)[:12]

    def uid(self, uid: str, *, patient: str | None = None) -> str:
        """Return the replacement of a DICOM UID, the same in all datasets of the site (PS3.5 B.2: 2.25 and a UUID).

        If several patients share the UID, `patient` is one of them; each of them gets a separate replacement.
        """
        words = ("uid", uid.strip()) if patient is None else ("uid of patient", uid.strip(), patient)
        digest = bytes.fromhex(self._digest(*words))
        return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"

    def days(self, patient: Patient) -> int:
        """Return the date shift of a patient: `MIN_DAYS` to `MAX_DAYS` days into the past."""
        digest = self._digest("days", "" if patient.is_known_elsewhere else self._dataset, patient.id)
        return -(MIN_DAYS + int(digest, 16) % (MAX_DAYS - MIN_DAYS + 1))

    def state(self, *facts: object) -> str:
        """Return a keyed hash of facts about a file. A resumed run recognizes finished files by this hash."""
        return self._digest("state", *map(str, facts))

    def _uid(self, domain: str, uid: str, candidate: Candidate) -> str:
        return self._digest(domain, "", uid) if uid else self._digest(domain, self._dataset, candidate.key)

    def _digest(self, domain: str, *parts: str) -> str:
        # One domain per kind, so that equal identifiers of a patient and a study get unrelated pseudonyms.
        message = json.dumps([domain, *parts]).encode()
        return hmac.digest(self._key, message, "sha256").hex()


class SiteNames:
    """Pseudonyms with the site's key; a study gets the same pseudonym as in ingest."""

    def __init__(self, key: Path) -> None:
        self._pseudonyms = Pseudonyms.with_key_file(key, dataset="")
        self.given: dict[str, str] = {}
        """Pseudonym of a study -> its identifier, for the site's crosswalk only."""

    def study(self, identifier: str, *, patient: str | None = None) -> str:
        """Return the pseudonym of a study.

        If several patients share the study identifier, `patient` is one of them; each of them has a separate pseudonym.
        """
        if patient is None:
            name, original = self._pseudonyms.study(_of(Identity(study=identifier))), identifier
        else:
            name = self._pseudonyms.shared_study(identifier, patient)
            original = f"{identifier} of the patient {patient}"
        self.given[name] = original
        return name

    def patients(self, identity: Identity) -> frozenset[str]:
        """Return the pseudonyms that the patient of an image may have in datasets of the site, none without PatientID.

        There is one for the PatientID alone and, if the issuer is known, one for both.
        """
        known = {identity.patient, f"{identity.patient}^^^{identity.issuer}"} if identity.issuer else {identity.patient}
        patients = [Patient(name, is_known_elsewhere=True) for name in known if identity.patient]
        return frozenset(map(self._pseudonyms.patient, patients))

    def series(self, identifier: str) -> str:
        """Return the pseudonym of a series."""
        return self._pseudonyms.series(_of(Identity(series=identifier)))

    def state(self, *facts: object) -> str:
        """Return a keyed hash of facts, by which a later run recognizes them."""
        return self._pseudonyms.state(*facts)


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        # A link, unlike a rename, never replaces a key that another process has created meanwhile.
        os.link(partial, path)
        log.info(
            "created the site key %s; keep it safe and private: it gives the same patients the same pseudonyms", path
        )
    except FileExistsError:
        log.info("using the site key %s, which another process has just created", path)
    finally:
        partial.unlink()


def _of(identity: Identity) -> Candidate:
    return Candidate(Item("", (), "volume", identity=identity), (), Patient(""))
