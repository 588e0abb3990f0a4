"""A cohort table counts patients, not images, and never hides unknown or rare values."""

from __future__ import annotations

from dataclasses import replace

import pytest

from medvit.cards.cohort import SHOWN_VALUES, Cohort, cohort_table
from medvit.records import Row

ROW = Row("", "", "", "e", "MR", "image", "d", "test", (1, 8, 8), "uint8", "0")
CLASSES = {"finding": ("no", "yes")}


def images(num_patients: int, **attributes: str) -> list[Row]:
    """Two images of each patient in one study; every third patient has a finding."""
    return [
        replace(
            ROW,
            image_id=f"i{n}",
            patient_id=f"p{n // 2}",
            study_id=f"s{n // 2}",
            labels={"finding": ("yes", "no", "no")[n // 2 % 3]},
            attributes={key: value.format(n // 2) for key, value in attributes.items()},
        )
        for n in range(2 * num_patients)
    ]


def lines_of(*sets: list[Row]) -> dict[str, list[object]]:
    table = cohort_table({str(n): Cohort.of(rows, CLASSES) for n, rows in enumerate(sets)})
    return {str(name): list(cells) for name, *cells in table.lines}


def test_attributes_count_patients_and_classes_count_images() -> None:
    rows = [*images(6, sex="F"), *(replace(row, patient_id=f"q{row.patient_id}") for row in images(3, sex="M"))]
    found = lines_of(rows, images(3, sex="F"))
    assert found["patients"] == ["9", "3"]
    assert found["images"] == [18, 6]
    assert found["sex, patients: F"] == ["6 (67%)", "3 (100%)"]
    assert found["sex, patients: M"] == ["3 (33%)", "0 (0%)"]
    assert found["finding, images: yes"] == ["6 (33%)", "2 (33%)"]


def test_unknown_values_have_a_line_and_do_not_count_in_shares() -> None:
    found = lines_of([*images(4, sex="F"), *(replace(row, patient_id="other") for row in images(1))])
    assert found["sex, patients: F"] == ["4 (100%)"]
    assert found["sex, patients: unknown"] == [1]
    without = [replace(row, labels={}) for row in images(2)]
    assert lines_of([*images(3), *without])["finding, images: unknown"] == [4]


def test_ages_are_those_of_patients_with_quartiles() -> None:
    found = lines_of(images(5, age_years="6{}"), images(1))
    assert found["age: median [quartiles], lowest to highest"] == ["62 [61, 63], 60 to 64", "unknown"]


def test_rare_values_are_counted_together() -> None:
    found = lines_of(images(SHOWN_VALUES + 3, model="m{}"))
    shown = [name for name in found if name.startswith("model, patients: m")]
    assert len(shown) == SHOWN_VALUES
    assert found["model, patients: 3 rarer values"] == [f"3 ({3 / (SHOWN_VALUES + 3):.0%})"]


def test_a_numeric_label_has_quartiles_instead_of_classes() -> None:
    rows = [replace(row, labels={"weight": str(n)}) for n, row in enumerate(images(10))]
    cohort = Cohort.of(rows, {"weight": tuple(map(str, range(20)))})
    assert cohort.numbers["weight"] == tuple(map(float, range(20)))
    assert cohort.tree["numbers"] == {
        "weight": pytest.approx(
            {
                "number": 20,
                "lowest": 0.0,
                "first_quartile": 4.75,
                "median": 9.5,
                "third_quartile": 14.25,
                "highest": 19.0,
            }
        )
    }


def test_the_tree_has_the_numbers_of_the_table() -> None:
    tree = Cohort.of(images(6, sex="F", site="h-1"), CLASSES).tree
    assert (tree["patients"], tree["studies"], tree["images"]) == (6, 6, {"image": 12})
    assert tree["patients_by_value"] == {"sex": {"F": 6}, "site": {"h-1": 6}}
    assert tree["images_by_class"] == {"finding": {"yes": 4, "no": 8}}
