from __future__ import annotations

import pytest

from medvit.errors import ConfigError
from medvit.writers import Concept
from medvit.writers.coded_terms import ABNORMAL, ANATOMICAL, check_codes, property_category, property_type


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
