"""Identity of a study: the attributes by which an archive and a result must agree on the patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

        PatientID is always compared, and differs if it is empty on both sides. Of the others, those are compared that
        both have, because many archives return only some of them.
        """
        compared = [key for key in KEYWORDS if key == PATIENT_ID or (self._text(key) and other._text(key))]
        return [key for key in compared if self._text(key) != other._text(key) or not self._text(key)]

    def not_compared(self, other: StudyIdentity) -> list[str]:
        """Return the keywords that only one of both identities has, so that `differences` skips them."""
        others = [key for key in KEYWORDS if key != PATIENT_ID]
        return [key for key in others if bool(self._text(key)) != bool(other._text(key))]

    @classmethod
    def common(cls, found: Sequence[StudyIdentity]) -> StudyIdentity | None:
        """Return the identity in the answers of an archive on one study; None without an answer.

        If several answers differ, its patient ID is empty, so that it differs from every other identity.
        """
        if not found:
            return None
        return found[0] if all(one.values == found[0].values for one in found) else cls({})

    def _text(self, keyword: str) -> str:
        return self.values.get(keyword, "").strip()
