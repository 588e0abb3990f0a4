from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from medvit.deidentification.patient_ids import with_issuers, with_shared_uids
from medvit.deidentification.pseudonyms import Pseudonyms, SiteNames
from medvit.inference.series_selection import studies
from medvit.ingest.rows import warn_of_identifiers
from medvit.ingest.splits import SplitConfig, assign
from medvit.models.image import AppliesTo
from medvit.records import Candidate, Identity, Item, Patient


def of(patient: str, study: str, *, path: str = "", series: str = "1.9", issuer: str = "") -> Candidate:
    identity = Identity("" if path else patient, study, series, issuer)
    return Candidate(Item("dicom", (), "volume", identity=identity), (path,), Patient(patient, not path))


def test_ingest_reports_shared_studies_and_ids_spelled_alike_by_pseudonyms(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pseudonyms = Pseudonyms.with_key_file(tmp_path / "site.key", "set")
    found = [of("Anna7", "1.2"), of("BERT", "1.2"), of("anna 07", "1.3"), of("x/1.png", "", path="x/1.png")]
    caplog.clear()
    warn_of_identifiers(with_shared_uids([*found, of("x/01.png", "", path="x/01.png")]), pseudonyms)
    assert "2 patients share one StudyInstanceUID" in caplog.text
    assert caplog.text.count("2 PatientIDs differ only in spaces, case or zeros") == 1
    assert pseudonyms.patient(Patient("BERT", is_known_elsewhere=True)) in caplog.text
    assert "Anna" not in caplog.text


def test_a_study_of_several_patients_has_a_pseudonym_for_each_as_in_predictions_and_others_keep_theirs(
    tmp_path: Path,
) -> None:
    key = tmp_path / "site.key"
    pseudonyms = Pseudonyms.with_key_file(key, "set")
    found = [of("Anna", "1.2"), of("Bert", "1.2"), of("Bert", "1.3", series="1.8"), of("Cleo", "1.4", series="1.7")]
    for path, one in zip("abcd", found, strict=True):
        object.__setattr__(one.item, "files", (tmp_path / path,))
    shared = with_shared_uids(found)
    ids = [pseudonyms.study(one) for one in shared]
    assert len(set(ids)) == 4
    assert len({pseudonyms.series(one) for one in shared}) == 4
    assert ids[2:] == [pseudonyms.study(one) for one in found[2:]]
    predicted = studies([one.item for one in found], tmp_path, SiteNames(key), AppliesTo())
    assert {study.name for study in predicted.studies} == set(ids)


def test_a_patient_of_whom_all_is_refused_counts_as_one_of_a_study(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pseudonyms = Pseudonyms.with_key_file(tmp_path / "site.key", "set")
    (alone,) = with_shared_uids([of("Anna", "1.2")], [Identity("Anna", "1.2", "1.8")])
    (apart,) = with_shared_uids([of("Anna", "1.2")], [Identity("Bert", "1.2", "1.8")])
    assert pseudonyms.study(alone) == pseudonyms.study(of("Anna", "1.2")) != pseudonyms.study(apart)
    warn_of_identifiers([alone], pseudonyms)
    assert "StudyInstanceUID" not in caplog.text
    warn_of_identifiers([apart], pseudonyms)
    assert "a patient without any image that was taken shares one StudyInstanceUID" in caplog.text


def test_one_patient_id_of_two_issuers_is_two_patients_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pseudonyms = Pseudonyms.with_key_file(tmp_path / "site.key", "set")
    north, south = of("4711", "1.2", issuer="NORTH"), of("4711", "1.3", issuer="South")
    beside, again, unsaid = of("4711", "1.2"), of("4711", "1.4", issuer=" south"), of("4711", "1.5")
    found = with_issuers([north, south, beside, again, unsaid])
    assert [one.patient.id for one in found] == [
        "4711^^^north",
        "4711^^^south",
        "4711^^^north",
        "4711^^^south",
        "4711",
    ]
    warn_of_identifiers(found, pseudonyms)
    assert "3 patients have one PatientID of different issuers, and are kept apart" in caplog.text
    assert "4711" not in caplog.text
    assert with_issuers([north, beside, unsaid]) == (north, beside, unsaid)


def test_who_is_named_by_path_or_table_is_whom_that_names(tmp_path: Path) -> None:
    named = [replace(of("4711", study, issuer=study), patient=Patient("sub-1")) for study in ("1.2", "1.3")]
    assert with_issuers(named) == tuple(named)


def test_a_patient_is_not_moved_to_another_split_by_another_of_the_same_id() -> None:
    config = SplitConfig(val=0.3, test=0.4)
    for number in range(20):
        alone = of(f"P{number}", "1.2", issuer="NORTH")
        both = with_issuers([alone, of(f"P{number}", "1.3", issuer="SOUTH")])
        splits = {one.split for one in assign(both, config).candidates}
        assert splits == {one.split for one in assign([alone], config).candidates}
