"""Every image is in exactly one group of an attribute, and groups follow stated rules."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.errors import ConfigError
from medvit.evaluation.subgroups.grouping import MAX_GROUPS, available, choose, group_names, grouped
from medvit.records import Row


def row(number: int, *, labels: dict[str, str] | None = None, **attributes: str) -> Row:
    return Row(
        image_id=f"i{number}",
        patient_id=f"p{number}",
        study_id=f"s{number}",
        series_id=f"e{number}",
        modality="MR",
        kind="image",
        dataset="d",
        split="test",
        shape=(1, 8, 8),
        dtype="uint8",
        sha256="0",
        labels=labels or {},
        flags=(),
        attributes=attributes,
    )


@pytest.mark.parametrize(
    ("age", "band"),
    [
        ("0", "under 18"),
        ("17", "under 18"),
        ("18", "18 to 39"),
        ("59", "40 to 59"),
        ("60", "60 to 79"),
        ("89", "80 and over"),
    ],
)
def test_ages_are_in_bands(age: str, band: str) -> None:
    assert group_names([row(0, age_years=age)], "age_years") == [band]


def test_groups_divide_the_images_and_unknown_values_are_the_last_group() -> None:
    rows = [row(n, **({"sex": "FM"[n % 2]} if n % 3 else {})) for n in range(30)]
    found = grouped(rows, "sex")
    assert list(found) == ["F", "M", "unknown"]
    assert sorted(np.concatenate(list(found.values())).tolist()) == list(range(30))
    assert len(found["unknown"]) == 10


def test_numbers_with_many_values_are_divided_into_thirds_and_a_few_values_remain() -> None:
    rows = [row(n, slice_thickness_mm=str(1 + n / 10), field_strength_t=("1.5", "3")[n % 2]) for n in range(30)]
    found = grouped(rows, "slice_thickness_mm")
    assert [len(those) for those in found.values()] == [10, 10, 10]
    assert list(found) == ["up to 1.9", "above 1.9 to 2.9", "above 2.9"]
    assert list(grouped(rows, "field_strength_t")) == ["1.5", "3"]


def test_rare_values_of_a_long_list_form_one_group() -> None:
    rows = [row(n, model=f"m{n if n < 40 else n % 10}") for n in range(100)]
    found = grouped(rows, "model")
    assert len(found) == MAX_GROUPS + 1
    assert "20 rarer values" in found
    assert sum(map(len, found.values())) == 100


def test_fundus_quality_is_in_strata_and_flags_are_joined() -> None:
    assert group_names([row(0, fundus_quality="0.9"), row(1)], "fundus_quality") == ["good", "unknown"]
    assert group_names([row(0)], "flags") == ["none"]


def test_unset_means_attributes_of_subject_and_acquisition_but_no_predicted_label() -> None:
    rows = [row(0, labels={"finding": "yes", "birads": "3", "scanner": "B"}, sex="F", offered_mappings="x")]
    assert choose(rows, None, {"finding"}) == ("dataset", "modality", "flags", "sex", "scanner")
    assert choose(rows, [], {"finding"}) == ()
    assert choose(rows, ["birads", "sex"], {"finding"}) == ("birads", "sex")
    assert "finding" not in available(rows, {"finding"})


def test_an_attribute_that_no_image_has_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"subgroups=kernel: no evaluated image has this attribute; they have .*sex"):
        choose([row(0, sex="F")], ["kernel"], ())
