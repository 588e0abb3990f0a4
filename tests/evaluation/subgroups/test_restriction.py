"""A restricted evaluation has the images of the group in a report, and a note with their number."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from medvit.dataset.manifest import Facts, Manifest
from medvit.errors import ConfigError
from medvit.evaluation.subgroups.grouping import grouped
from medvit.evaluation.subgroups.restriction import restricted
from medvit.records import Row

ROW = Row("", "", "s", "e", "MR", "image", "d", "test", (1, 8, 8), "uint8", "0")


def images() -> Manifest:
    rows = [
        replace(
            ROW,
            image_id=f"i{n:02d}",
            patient_id=f"p{n // 2}",
            labels={"birads": str(n % 3)},
            attributes={"age_years": str(10 + 3 * n), **({"site": f"h-{n % 2}"} if n < 20 else {})},
        )
        for n in range(24)
    ]
    return Manifest(tuple(rows), Facts("d"), Path("d"))


@pytest.mark.parametrize("attribute", ["age_years", "site", "birads"])
def test_the_images_are_those_of_the_groups(attribute: str) -> None:
    whole = images()
    for name, those in grouped(whole.rows, attribute).items():
        part, (note,) = restricted(whole, {attribute: (name,)})
        assert [row.image_id for row in part] == [whole.rows[index].image_id for index in those]
        assert f"only images with {attribute}={name} are evaluated: {len(those)} of 24 images" in note


def test_several_values_add_up_and_several_attributes_all_apply() -> None:
    whole = images()
    assert len(restricted(whole, {"site": ("h-0", "unknown")})[0]) == 14
    part, (note,) = restricted(whole, {"site": ("h-0",), "birads": ("1",)})
    assert {(row.attributes["site"], row.labels["birads"]) for row in part} == {("h-0", "1")}
    assert "site=h-0 and birads=1" in note


def test_a_value_as_the_manifest_has_it_may_be_given_too() -> None:
    assert [row.image_id for row in restricted(images(), {"age_years": ("13",)})[0]] == ["i01"]


def test_nothing_given_changes_nothing() -> None:
    assert restricted(images(), {}) == (images(), [])


def test_unknown_attributes_values_and_empty_combinations_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no image has this attribute; they have .*site"):
        restricted(images(), {"kernel": ("B30f",)})
    with pytest.raises(ConfigError, match=r"site: h-7}: no image has this value; the values are h-0 \(10\)"):
        restricted(images(), {"site": ("h-7",)})
    with pytest.raises(ConfigError, match="no image has site=h-0 and age_years=13"):
        restricted(images(), {"site": ("h-0",), "age_years": ("13",)})
