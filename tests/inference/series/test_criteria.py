"""Series are taken by what their headers state, and each that is not taken has a reason."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest

from medvit.errors import ConfigError
from medvit.inference.review.series_table import explained, table
from medvit.inference.series.criteria import SeriesFacts, misfits
from medvit.inference.series_selection import NoSeriesError, check_rule, choose
from medvit.models.image import AppliesTo
from medvit.phantoms import write_ct_pairs, write_ct_studies
from medvit.readers import find
from medvit.records import Item
from medvit.writers import Study
from tests.inference.test_series_selection import Plain

CT = AppliesTo(modality="CT", kind="volume")
AXIAL, CORONAL = 0, 3
"""Numbers of phantom studies whose series is axial, or coronal."""


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_ct_studies(tmp_path_factory.mktemp("phantoms"), 4)


def series(study: Path) -> Item:
    (item,) = find(sorted((study / "abdomen").iterdir()))
    assert isinstance(item, Item)
    return item


def test_the_facts_of_a_series_are_those_that_were_written(phantoms: list[Path]) -> None:
    axial, coronal = (SeriesFacts(series(phantoms[number])) for number in (AXIAL, CORONAL))
    first = pydicom.dcmread(next((phantoms[AXIAL] / "abdomen").iterdir()))
    assert (axial.orientation, coronal.orientation) == ("axial", "coronal")
    assert axial.spacing_mm == pytest.approx(float(first.SliceThickness), rel=1e-6)
    assert (axial.num_slices, coronal.num_slices) == (32, 48)
    assert axial.body_part == first.BodyPartExamined == "ABDOMEN"
    assert not axial.has_contrast


@pytest.mark.parametrize("keyword", ["ContrastBolusAgent", "ContrastBolusAgentSequence"])
def test_a_contrast_agent_is_found_in_both_of_its_elements(tmp_path: Path, keyword: str) -> None:
    (study,) = write_ct_studies(tmp_path, 1)
    code = pydicom.Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "C-B0322", "SRT", "Iohexol"
    for path in (study / "abdomen").iterdir():
        dataset = pydicom.dcmread(path)
        setattr(dataset, keyword, "Iohexol" if keyword == "ContrastBolusAgent" else [code])
        dataset.save_as(path)
    item = series(study)
    assert SeriesFacts(item).has_contrast
    assert list(misfits(item, CT.model_copy(update={"contrast": True}))) == []
    assert list(misfits(item, CT.model_copy(update={"contrast": False}))) == ["its header states a contrast agent"]


@pytest.mark.parametrize(
    ("criterion", "meets", "reason"),
    [
        ({"modality": "ct"}, {"modality": "MR"}, "its modality is CT, not MR"),
        ({"description": "abdomen"}, {"description": "head"}, "its description does not match 'head'"),
        ({"orientation": "axial"}, {"orientation": "coronal"}, "its planes are axial, not coronal"),
        ({"spacing_mm": (5.0, 10.0)}, {"spacing_mm": (0.5, 3.0)}, "mm, not 0.5 to 3 mm"),
        ({"num_slices": (32, 32)}, {"num_slices": (33, 900)}, "it has 32 slices, not 33 to 900"),
        ({"body_part": "^abd"}, {"body_part": "^head$"}, "its BodyPartExamined does not match"),
        ({"contrast": False}, {"contrast": True}, "its header states no contrast agent"),
        ({"kind": "volume"}, {"kind": "image"}, "it is a volume, not an image"),
    ],
)
def test_each_criterion_selects_by_itself(
    phantoms: list[Path], criterion: dict[str, object], meets: dict[str, object], reason: str
) -> None:
    item = series(phantoms[AXIAL])
    assert choose(Study("s", (item,)), CT.model_copy(update=criterion)) == (item,)
    rule = CT.model_copy(update=meets)
    (found,) = misfits(item, rule)
    assert reason in found
    with pytest.raises(NoSeriesError):
        choose(Study("s", (item,)), rule)


def test_criteria_of_headers_do_not_exclude_other_formats(tmp_path: Path) -> None:
    write_ct_pairs(tmp_path, 1)
    (item,) = find([next((tmp_path / "images").iterdir())])
    assert isinstance(item, Item)
    strict = AppliesTo(modality="MR", orientation="coronal", num_slices=(1, 2), body_part="HEAD", contrast=True)
    assert list(misfits(item, strict)) == []


def test_limits_in_the_wrong_order_and_invalid_expressions_are_refused() -> None:
    with pytest.raises(ConfigError, match="lowest value first"):
        check_rule(AppliesTo(spacing_mm=(3.0, 1.0)))
    with pytest.raises(ConfigError, match=r"body_part is not a regular expression"):
        check_rule(AppliesTo(body_part="("))


def test_the_table_has_a_reason_for_each_series_and_no_free_text(phantoms: list[Path]) -> None:
    found = [item for item in find(sorted(phantoms[AXIAL].rglob("*.dcm"))) if isinstance(item, Item)]
    study = Study("s-1", tuple(found))
    lines = list(explained(study, CT, "best", Plain()))  # type: ignore[arg-type]
    assert len(lines) == 2
    assert {line.taken: line.reason for line in lines} == {
        "yes": "it meets the rule",
        "no": "it is an image, not a volume",
    }
    (taken,) = (line for line in lines if line.taken == "yes")
    assert (taken.orientation, taken.num_slices, taken.body_part, taken.contrast) == ("axial", "32", "ABDOMEN", "no")
    text = table(lines)
    assert text.count("\n") == 2
    assert "portal" not in text + str(lines)


def test_a_series_that_meets_the_rule_but_is_smaller_says_so(phantoms: list[Path]) -> None:
    few, many = series(phantoms[AXIAL]), series(phantoms[CORONAL])
    lines = list(explained(Study("s-1", (few, many)), CT, "best", Plain()))  # type: ignore[arg-type]
    assert [line.taken for line in lines] == ["no", "yes"]
    assert "series with the most slices" in lines[0].reason
