from __future__ import annotations

from pathlib import Path

import pytest

from medvit.deidentification.pseudonyms import Pseudonyms
from medvit.ingest.rows import warn_of_identifiers
from medvit.records import Candidate, Identity, Item, Patient


def of(patient: str, study: str, *, path: str = "") -> Candidate:
    identity = Identity("" if path else patient, study, "1.9")
    return Candidate(Item("dicom", (), "volume", identity=identity), (path,), Patient(patient, not path))


def test_ingest_reports_shared_studies_and_ids_spelled_alike_by_pseudonyms(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pseudonyms = Pseudonyms.with_key_file(tmp_path / "site.key", "set")
    found = [of("Anna7", "1.2"), of("BERT", "1.2"), of("anna 07", "1.3"), of("x/1.png", "", path="x/1.png")]
    caplog.clear()
    warn_of_identifiers([*found, of("x/01.png", "", path="x/01.png")], pseudonyms)
    assert "2 patients share the StudyInstanceUID" in caplog.text
    assert caplog.text.count("2 PatientIDs differ only in spaces, case or zeros") == 1
    assert pseudonyms.patient(Patient("BERT", is_known_elsewhere=True)) in caplog.text
    assert "Anna" not in caplog.text
