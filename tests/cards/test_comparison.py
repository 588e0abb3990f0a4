"""Two datasets that differ in one variable are reported to differ in that variable."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medvit.cards import comparison
from medvit.cards.comparison import ComparedVariable, compare
from medvit.dataset.manifest import Facts, Manifest
from tests.leakage.test_leakage import row

NUM_ROWS = 24


def dataset(folder: Path, *, brighter: int = 0, **changes: object) -> Manifest:
    """Volumes of `NUM_ROWS` patients of ages 30, 31..., half of class yes."""
    rows = []
    for number in range(NUM_ROWS):
        voxels = np.random.default_rng(number).integers(0, 100, (1, 6, 6, 6), dtype=np.int16) + np.int16(brighter)
        plain = row(
            folder,
            number,
            voxels,
            kind="volume",
            labels={"label": "yes" if number % 2 else "no"},
            spacing_mm=(1.0, 1.0, 2.0 + 0.1 * (number % 3)),
            attributes={"age_years": str(30 + number), "sex": "FM"[number % 2], "manufacturer": "GE"},
        )
        rows.append(replace(plain, **{name: change(plain) for name, change in changes.items()}))
    return Manifest(tuple(rows), Facts(folder.name, classes={"label": ("no", "yes")}), folder)


def shifted(variables: tuple[ComparedVariable, ...]) -> set[str]:
    return {variable.name for variable in variables if variable.effect.size != "none"}


def test_equal_datasets_do_not_differ(tmp_path: Path) -> None:
    variables = compare(dataset(tmp_path / "a"), dataset(tmp_path / "b"))
    assert shifted(variables) == set()
    assert {"age, years", "sex", "manufacturer", "spacing K, mm", "label label", "modality"} <= {
        v.name for v in variables
    }


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"spacing_mm": lambda r: (0.5, 1.0, r.spacing_mm[2])}, {"spacing I, mm"}),
        ({"attributes": lambda r: r.attributes | {"manufacturer": "SIEMENS"}}, {"manufacturer"}),
        ({"attributes": lambda r: r.attributes | {"sex": "F"}}, {"sex"}),
        ({"attributes": lambda r: r.attributes | {"age_years": "89"}}, {"age, years"}),
        ({"labels": lambda r: {"label": "yes"}}, {"label label"}),
        ({"flags": lambda r: ("clipped",)}, {"flags"}),
        (
            {"brighter": 200},
            {"intensity of MR, percentile 1", "intensity of MR, median", "intensity of MR, percentile 99"},
        ),
    ],
)
def test_what_differs_is_told_and_nothing_else(tmp_path: Path, changes: dict[str, object], names: set[str]) -> None:
    variables = compare(dataset(tmp_path / "a"), dataset(tmp_path / "b", **changes))
    assert shifted(variables) == names
    assert {variable.name for variable in variables[: len(names)]} == names  # in descending order of the difference


def test_a_patient_of_many_images_has_one_age(tmp_path: Path) -> None:
    many = dataset(tmp_path / "a", patient_id=lambda r: "p", attributes=lambda r: {"age_years": "40"})
    assert "age, years" not in {variable.name for variable in compare(many, dataset(tmp_path / "b"))}


def few(manifest: Manifest, number: int) -> Manifest:
    return replace(manifest, rows=manifest.rows[:number])


def test_scanners_of_few_patients_that_have_nothing_in_common_are_a_large_shift(tmp_path: Path) -> None:
    made = [
        dataset(tmp_path / name, attributes=lambda r, name=name: r.attributes | {"model": f"{name} {r.image_id}"})
        for name in ("GE", "SIEMENS")
    ]
    (scanner,) = [one.effect for one in compare(few(made[0], 2), few(made[1], 2)) if one.name == "model"]
    assert (scanner.size, scanner.ks) == ("large", 1.0)
    assert scanner.effect < 0.5


def test_what_too_few_tell_is_said_to_be_left_out(tmp_path: Path) -> None:
    a, b = few(dataset(tmp_path / "a"), 1), dataset(tmp_path / "b")
    comparison.write(tmp_path, a, b, compare(a, b))
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert "One of the datasets has only 1 patient" in text
    assert re.search(r"Not compared, as one of them has fewer than 2 values: .*age, years.*; sex", text)


@pytest.mark.usefixtures("whole_figures")
def test_the_pages_hold_every_variable(tmp_path: Path) -> None:
    changes: dict[str, object] = {"attributes": lambda r: {}, "patient_is_assumed": lambda r: True}
    a, b = dataset(tmp_path / "a"), dataset(tmp_path / "b", brighter=200, **changes)
    variables = compare(a, b)
    comparison.write(tmp_path, a, b, variables)
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert "# a (a) and b (b)" in text
    assert "Medium or large effects: intensity of MR" in text
    assert "Only a has: age, years; manufacturer; sex." in text
    assert "| patients | 24 | 24 (all assumed) |" in text
    assert "b: 24 of 24 patients are assumed" in text
    assert page.count("data:image/png;base64,") == len(variables) + 1
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    pictures = re.findall(r"\]\((comparison/[^)]+)\)", text)
    assert len(pictures) == len(variables) + 1
    assert all((tmp_path / picture).is_file() for picture in pictures)
    lines = list(csv.DictReader((tmp_path / "comparison.csv").open(encoding="utf-8")))
    assert [line["variable"] for line in lines] == [variable.name for variable in variables]


def test_a_label_of_many_numbers_is_compared_as_numbers(tmp_path: Path) -> None:
    def aged(folder: str, years: int) -> Manifest:
        made = dataset(tmp_path / folder, labels=lambda r: {"age": str(years + int(r.image_id[2:]))})
        names = tuple(str(years + number) for number in range(NUM_ROWS))
        return replace(made, facts=replace(made.facts, classes={"age": names}))

    (label,) = (v for v in compare(aged("a", 20), aged("b", 60)) if v.name == "label age")
    assert (label.effect.kind, label.effect.size, label.effect.wasserstein) == ("numbers", "large", 40.0)
