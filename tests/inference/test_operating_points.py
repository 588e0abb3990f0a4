"""Operating points are read as they were written, make calls at the threshold, and are refused for another model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medvit.errors import ConfigError, DataError
from medvit.inference.operating_points import (
    OPERATING_POINTS,
    OperatingPoint,
    OperatingPoints,
    calls,
    read_for_models,
)

GRADES = ("0", "1", "2", "3")
POINT = OperatingPoint("sensitivity 0.95", ("2", "3"), 0.4, "image", 0.1)
POINTS = OperatingPoints("a" * 64, (POINT,))


def test_points_are_read_as_they_were_written(tmp_path: Path) -> None:
    POINTS.write(tmp_path)
    assert OperatingPoints.read(tmp_path) == POINTS
    assert OperatingPoints.read(tmp_path).hash == POINTS.hash


@pytest.mark.parametrize(("last", "call"), [(0.1, "positive"), (0.0999, "negative")])
def test_the_call_is_positive_from_the_threshold_on(last: float, call: str) -> None:
    (found,) = calls([POINT], GRADES, np.array([0.5, 0.5 - 0.3 - last + 0.1, 0.3, last]), "e-1")
    assert (found.label, found.operating_point, found.call) == ("2 or 3", "sensitivity 0.95", call)
    assert found.probability == pytest.approx(0.3 + last)
    assert found.threshold == 0.4


def test_points_of_another_model_are_refused(tmp_path: Path) -> None:
    POINTS.write(tmp_path)
    assert read_for_models([tmp_path], {"one": "b" * 64, "other": "a" * 64}) == {"other": POINTS}
    with pytest.raises(ConfigError, match=r"chosen for the model aaaaaaaaaaaaaaaa, not for bbbbbbbbbbbbbbbb"):
        read_for_models([tmp_path], {"one": "b" * 64})


def test_points_of_patients_are_refused_for_single_series(tmp_path: Path) -> None:
    OperatingPoints("a", (OperatingPoint("sensitivity 0.9", ("2",), 0.4, "patient", 0.1),)).write(tmp_path)
    with pytest.raises(ConfigError, match="chosen for each patient, and predict calls each series"):
        read_for_models([tmp_path], {"one": "a"})


def test_two_reports_of_one_model_are_refused(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        POINTS.write(tmp_path / name)
    with pytest.raises(ConfigError, match="two reports of one model"):
        read_for_models([tmp_path / "first", tmp_path / "second"], {"one": "a" * 64})


@pytest.mark.parametrize("text", ["", "{}", '{"model": "a", "points": [{"name": "x"}]}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / OPERATING_POINTS).write_text(text)
    with pytest.raises(DataError, match="is damaged"):
        OperatingPoints.read(tmp_path)


def test_a_folder_without_points_is_refused_with_the_option_that_makes_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"operating\.sensitivity=0\.95"):
        OperatingPoints.read(tmp_path)
