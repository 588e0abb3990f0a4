from __future__ import annotations

from medvit.deidentification.patient_ids import shared, spelled_alike


def test_ids_that_differ_in_spaces_case_width_or_leading_zeros_are_alike() -> None:
    assert spelled_alike(["P007", "p 7", "P\uff17", "P70", "Q7", "", " "]) == [("P007", "P\uff17", "p 7")]
    assert spelled_alike(["P1", "P1", "P10", "P01-2"]) == []


def test_a_study_of_several_patients_is_named_with_them() -> None:
    pairs = [("1.2", "a"), ("1.2", "b"), ("1.2", "a"), ("1.3", "a"), ("", "a"), ("", "b")]
    assert shared(pairs) == {"1.2": ("a", "b")}
