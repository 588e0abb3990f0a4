"""Laterality of an image: stated, never guessed; and both eyes of a patient in one split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture
from pydicom import Dataset, dcmread

from medvit import phantoms
from medvit.dataset import quarantine
from medvit.dataset.manifest import Manifest
from medvit.ingest.laterality import EyeConfig, LateralityError, eye_attributes, paired
from medvit.phantoms.fundus import fundus
from medvit.records import Candidate, Item, Patient
from pipelines.ingest import ingest

Make = Callable[..., Candidate]


def attributes(make: Make, path: str, modality: str = "OP", **config: str) -> dict[str, str]:
    return eye_attributes(make(path), modality, EyeConfig.parse(config))


@pytest.mark.parametrize(
    ("path", "side", "view"),
    [
        ("p1/10_left.png", "left", ""),
        ("p1/OD.png", "right", ""),
        ("scan-OS-macula-2.tif", "left", "macula"),
        ("right/7_disc.jpg", "right", "disc"),
        ("a/IM_od_macula_disc.png", "right", "disc-macula"),
        ("a/period_gross_l.png", "", ""),
        ("bright/leftover.png", "", ""),
    ],
)
def test_whole_words_of_a_path_say_the_side_and_the_view(candidate: Make, path: str, side: str, view: str) -> None:
    found = attributes(candidate, path)
    assert (found.get("laterality", ""), found.get("view", "")) == (side, view)


def test_single_letters_count_where_they_are_pointed_at(candidate: Make) -> None:
    assert attributes(candidate, "17_l2.jpg") == {}
    assert attributes(candidate, "17_l2.jpg", laterality_from=r"_([lr])\d") == {"laterality": "left"}
    with pytest.raises(LateralityError, match="captures a text that does not name a side; expected R, L, OD or OS"):
        attributes(candidate, "17_x2.jpg", laterality_from=r"_([a-z])\d")


def test_images_of_other_modalities_have_no_side_of_an_eye(candidate: Make) -> None:
    assert attributes(candidate, "10_left.png", modality="MG") == {}


def test_a_path_that_names_both_eyes_is_refused(candidate: Make) -> None:
    with pytest.raises(LateralityError, match="its path names right and left; expected an image of one eye"):
        attributes(candidate, "left/10_right.png")


def test_slices_of_both_eyes_in_one_stack_are_refused(candidate: Make) -> None:
    mixed = candidate("v/OD_01.png", "v/OS_02.png")
    with pytest.raises(LateralityError, match="right and left"):
        eye_attributes(mixed, "OPT", EyeConfig())


def dicom_candidate(path: Path, **elements: Any) -> Candidate:
    phantoms.write_radiograph_studies(path.parent, 1)
    dataset = dcmread(next(path.parent.rglob("*.dcm")))
    dataset.Modality = "OP"
    dataset.pop("ImageLaterality", None)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)
    return Candidate(Item("dicom", (path,), "image", modality="OP"), (path.name,), Patient("x", True))


def code(value: str) -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", "typed by someone"
    return [item]


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"ImageLaterality": "R"}, {"laterality": "right"}),
        ({"Laterality": "L"}, {"laterality": "left"}),
        ({"RelativeImagePositionCodeSequence": code("111900")}, {"view": "macula"}),
        ({"RelativeImagePositionCodeSequence": code("999")}, {}),
        ({"ImageLaterality": ""}, {}),
    ],
)
def test_dicom_elements_say_the_side_and_the_view(
    tmp_path: Path, elements: dict[str, Any], expected: dict[str, str]
) -> None:
    made = dicom_candidate(tmp_path / "a.dcm", **elements)
    assert eye_attributes(made, "OP", EyeConfig()) == expected


def test_an_element_that_contradicts_the_file_name_is_refused(tmp_path: Path) -> None:
    made = dicom_candidate(tmp_path / "12_OS.dcm", ImageLaterality="R")
    with pytest.raises(LateralityError, match=r"\(0020,0062\) ImageLaterality names right, its path names left"):
        eye_attributes(made, "OP", EyeConfig())


def test_a_photograph_of_both_eyes_is_refused(tmp_path: Path) -> None:
    made = dicom_candidate(tmp_path / "a.dcm", ImageLaterality="B")
    with pytest.raises(LateralityError, match="names both; expected an image of one eye"):
        eye_attributes(made, "OP", EyeConfig())


def test_images_that_differ_in_the_side_alone_are_of_one_patient(candidate: Make) -> None:
    names = [
        "a/10_left.png",
        "a/10_right.png",
        "a/11_left.png",
        "b/10_left.png",
        "a/left.png",
        "b/right.png",
        "a/x.png",
    ]
    found = [one.patient.id for one in paired([candidate(name) for name in names], "OP")]
    assert len(set(found)) == 6
    assert found[0] == found[1]
    assert [one.patient.id for one in paired([candidate(name) for name in names], "US")] == names


def test_folders_that_are_classes_do_not_part_the_eyes_of_a_patient(candidate: Make) -> None:
    pair = paired([candidate("mild/10_left.png"), candidate("none/10_right.png")], "OP", folders_are_classes=True)
    assert pair[0].patient == pair[1].patient


def test_known_patients_stay(candidate: Make) -> None:
    (one,) = paired([candidate("10_left.png", patient="P7")], "OP")
    assert one.patient.id == "P7"


def test_eyes_pass_through_ingest(tmp_path: Path) -> None:
    """Both eyes of a patient in one split, sides in the manifest, a contradiction and a chest X-ray in quarantine."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(8):
        for side in ("left", "right"):
            pixels = fundus(np.random.default_rng([number, side == "left"]), "mild")
            Picture.fromarray(pixels).save(source / f"{number}_{side}.png")
    (source / "left").mkdir()
    Picture.fromarray(fundus(np.random.default_rng(99), "none")).save(source / "left" / "9_right.png")
    Picture.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99, 3), dtype=np.uint8)).save(source / "x.png")
    quiet = {"key": tmp_path / "key", "tracking": {"enabled": False}}
    ingest(source=source, dataset=tmp_path / "d", scanning={"modality": "OP"}, **quiet)
    manifest = Manifest.read(tmp_path / "d")
    assert len(manifest) == 16
    splits: dict[str, set[str]] = {}
    for row in manifest:
        splits.setdefault(row.patient_id, set()).add(row.split)
    assert len(splits) == 8
    assert all(len(one) == 1 for one in splits.values())
    assert sorted(row.attributes["laterality"] for row in manifest) == ["left"] * 8 + ["right"] * 8
    assert all("fundus_quality" in row.attributes for row in manifest)
    entries = quarantine.read(tmp_path / "d")
    assert sorted(entry.code for entry in entries) == ["laterality", "not_fundus"]
