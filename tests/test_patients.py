"""A number of patients includes how many of them are assumed."""

from __future__ import annotations

from medvit.patients import PatientCount
from medvit.records import Row


def rows(**of: bool | None) -> list[Row]:
    """An image of each patient: whether the patient is assumed."""
    rest = ("s", "e", "CT", "image", "toy", "test", (1, 4, 4), "uint8", "ab" * 32)
    return [Row(f"i-{patient}", patient, *rest, patient_is_assumed=value) for patient, value in of.items()]


def test_named_patients_are_counted_without_a_doubt() -> None:
    count = PatientCount.of(rows(a=False, b=False, c=None))
    assert (str(count), count.cell, count.note) == ("3 patients", "3", "")


def test_patients_that_nothing_names_are_counted_with_the_doubt() -> None:
    assert str(PatientCount.of(rows(a=True, b=True))) == "2 patients (all assumed)"
    some = PatientCount.of(rows(a=True, b=False, c=False))
    assert (str(some), some.cell) == ("3 patients (1 assumed)", "3 (1 assumed)")
    assert some.note.startswith("1 of 3 patients is assumed: without an identifier")


def test_a_patient_named_by_one_image_is_named() -> None:
    assert PatientCount.of(rows(a=True) + rows(a=False)) == PatientCount(1, 0)
