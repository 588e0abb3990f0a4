from __future__ import annotations

import pytest

from medvit.errors import ConfigError
from medvit.writers import Concept
from medvit.writers.dicom_parts.coded_terms import (
    ABNORMAL,
    ANATOMICAL,
    check_codes,
    label_of,
    property_category,
    property_type,
    property_types,
)


@pytest.mark.parametrize(
    ("name", "concept"),
    [
        ("liver", Concept("SCT", "10200004", "Liver")),
        ("adrenal gland", Concept("SCT", "23451007", "Adrenal gland")),
        ("Hippocampus", Concept("SCT", "5366008", "Hippocampus")),
        ("part of the liver", Concept("99MEDVIT", "PART_OF_THE_LIVE", "part of the liver")),
        ("???", Concept("99MEDVIT", "CLASS", "???")),
    ],
)
def test_a_class_gets_the_term_of_its_whole_name_or_a_private_one(name: str, concept: Concept) -> None:
    assert property_type(name, {}) == concept


def test_a_given_code_comes_before_the_dictionary() -> None:
    assert property_type("liver", {"liver": "99OURS:7:Liver: left"}) == Concept("99OURS", "7", "Liver: left")


def test_a_tumor_is_abnormal_and_a_kidney_is_anatomy() -> None:
    assert property_category("kidney tumor") == ABNORMAL
    assert property_category("kidney") == ANATOMICAL


@pytest.mark.parametrize("text", ["10200004", "SCT:10200004", "SCT::Liver", "SCT:12345678901234567:Liver"])
def test_a_code_that_cannot_be_read_is_refused_before_any_study(text: str) -> None:
    with pytest.raises(ConfigError, match="expected SCHEME:VALUE:MEANING"):
        check_codes({"liver": text}, ("background", "liver"))


def test_classes_whose_private_codes_would_be_equal_get_different_ones() -> None:
    types = property_types(("<5 mm", ">5 mm", "part of the liver", "腫瘍", "肝臓", "liver"), {})
    assert len({(concept.scheme, concept.value) for concept in types.values()}) == 6
    assert all(len(concept.value) <= 16 for concept in types.values())
    assert types["part of the liver"].value == "PART_OF_THE_LIVE"


def test_a_label_is_one_value_of_64_characters() -> None:
    assert label_of("left\\right\nlobe") == "left/right lobe"
    long = ["x" * 70 + end for end in "ab"]
    assert len({label_of(name) for name in long}) == 2
    assert all(len(label_of(name)) == 64 for name in long)
    assert property_type("left\\right lobe", {}).meaning == "left/right lobe"
    with pytest.raises(ConfigError, match="expected SCHEME:VALUE:MEANING"):
        check_codes({"liver": r"SCT:1:a\b"}, ("background", "liver"))
