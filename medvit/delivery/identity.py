"""Identity of a study: the attributes by which an archive and a result must agree on the patient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PATIENT_ID = "PatientID"
KEYWORDS = (PATIENT_ID, "IssuerOfPatientID", "PatientBirthDate", "AccessionNumber")
"""Attributes of the patient and of the order (PS3.3 C.7.1.1, C.7.2.1)."""


@dataclass(frozen=True)
class StudyIdentity:
    """Values of `KEYWORDS` in a result or in the answer of an archive.

    A keyword is missing if an archive did not return the attribute. The values name a patient, so they are not shown.
    """

    values: Mapping[str, str] = field(repr=False)

    def differences(self, other: StudyIdentity) -> list[str]:
        """Return the keywords of the attributes with different values.

        PatientID is always compared. Of the others, those are compared that both have, because many archives return
        only some of them.
        """
        compared = [key for key in KEYWORDS if key == PATIENT_ID or (self._text(key) and other._text(key))]
        return [key for key in compared if self._text(key) != other._text(key)]

    def not_compared(self, other: StudyIdentity) -> list[str]:
        """Return the keywords that this identity has and the other one lacks, so that `differences` skips them."""
        return [key for key in KEYWORDS if key != PATIENT_ID and self._text(key) and not other._text(key)]

    def _text(self, keyword: str) -> str:
        return self.values.get(keyword, "").strip()
