"""Received instance: its identifiers and its digest, from the bytes of a DICOM file."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field

from medvit.delivery.identity import KEYWORDS, PATIENT_ID
from medvit.dicom.checks import DERIVED
from medvit.dicom.direct.fast_values import class_name
from medvit.errors import NotAnImageError, UnreadableError

PREAMBLE_BYTES, GROUP_LENGTH_BYTES = 132, 12
"""Bytes before the file meta information, and of its first element, which has the length of the rest (PS3.10 7.1)."""
PERSON = ("PatientName", *KEYWORDS)
TAGS = ["SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", *PERSON]
MAKER = "medvit"
"""Manufacturer in the contributing equipment of objects that medvit has made."""


@dataclass(frozen=True)
class ReceivedInstance:
    """Instance as it was received; the values identify a patient."""

    sop_class: str
    uid: str = field(repr=False)
    study: str = field(repr=False)
    series: str = field(repr=False)
    person: tuple[str, ...] = field(repr=False)
    """Values of `PERSON`."""
    sha256: str
    """Digest of transfer syntax and data set, without the file meta information, which names the sender."""
    content: bytes = field(repr=False)

    @classmethod
    def of(cls, content: bytes) -> ReceivedInstance:
        """Return the instance in the bytes of a DICOM file.

        Raises:
            UnreadableError: If the bytes are not DICOM, or lack a UID.
            NotAnImageError: If the object cannot start a prediction: it is not an image, or medvit has made it.
        """
        import pydicom

        try:
            header = pydicom.dcmread(
                io.BytesIO(content), specific_tags=[*TAGS, "ContributingEquipmentSequence"], stop_before_pixels=True
            )
            sop_class, uid = str(header.SOPClassUID), str(header.SOPInstanceUID)
            study, series = str(header.StudyInstanceUID), str(header.SeriesInstanceUID)
            makers = [str(one.get("Manufacturer") or "") for one in header.get("ContributingEquipmentSequence") or ()]
            meta = header.file_meta
            offset = PREAMBLE_BYTES + GROUP_LENGTH_BYTES + int(meta.FileMetaInformationGroupLength)
            digest = hashlib.sha256(str(meta.TransferSyntaxUID).encode())
            person = tuple(str(header.get(keyword) or "").strip() for keyword in PERSON)
        except Exception:  # any bytes from a sender; pydicom's messages quote them
            raise UnreadableError("not a DICOM instance with the UIDs of its class, study and series") from None
        if not (uid and study and series):
            raise UnreadableError("the UID of the instance, its study or its series is empty")
        if MAKER in makers:
            raise NotAnImageError("an object that medvit has made")
        require_image(sop_class)
        digest.update(memoryview(content)[offset:])
        return cls(sop_class, uid, study, series, person, digest.hexdigest(), content)

    @property
    def owner(self) -> tuple[str, ...]:
        """Values that identify a patient: patient ID and issuer, or name and birth date without an ID."""
        of = dict(zip(PERSON, self.person, strict=True))
        if of[PATIENT_ID]:
            return (of[PATIENT_ID], of["IssuerOfPatientID"])
        return ("", of["PatientName"], of["PatientBirthDate"])


def require_image(sop_class: str) -> None:
    """Check that the instances of an SOP class are images from which a prediction can be made.

    Raises:
        NotAnImageError: If they are not, such as segmentations, reports, presentation states and key objects.
    """
    name = class_name(sop_class)
    if sop_class in DERIVED or " Image Storage" not in name:
        raise NotAnImageError(f"{name}, from which no prediction is made")
