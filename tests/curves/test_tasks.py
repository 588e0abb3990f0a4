"""Several curves: p-values are corrected over the comparisons of all of them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from medvit.curves.effects import Effect
from medvit.curves.results import CurvePoint
from medvit.curves.tasks import main, markdown, over_tasks
from medvit.errors import DataError

MEAN = Effect(0.8, 0.7, 0.9, 1.0)
POINT = CurvePoint(
    0.05, 20, "pretrained", "full", "lr0.001-s10", (), (0, 1), (0.75, 0.85), MEAN, True, Effect(0.1, 0.01, 0.2, 0.03)
)


def folder(place: Path, *points: CurvePoint) -> Path:
    place.mkdir()
    (place / "curve.json").write_text(json.dumps([point.tree() for point in points]))
    return place


def test_a_point_returns_from_its_tree() -> None:
    assert CurvePoint.of(json.loads(json.dumps(POINT.tree()))) == POINT


def test_a_gain_of_one_curve_is_lost_among_several(tmp_path: Path) -> None:
    baseline = replace(POINT, arm="pixels", way="regression", effect=replace(MEAN, p=0.0001))
    curves = [folder(tmp_path / name, POINT, baseline) for name in ("lung", "bone")]
    ((_, alone),) = over_tasks(curves[:1])
    assert (alone.corrected_p, alone.is_gain) == (0.03, True)
    together = over_tasks(curves)
    assert [(place.name, point.corrected_p, point.is_gain) for place, point in together] == [
        ("lung", 0.06, False),
        ("bone", 0.06, False),
    ]
    assert "| bone | 20 | pretrained | full | +0.100 [+0.010, +0.200] | 0.0300 | 0.0600 |  |" in markdown(together)


def test_folders_that_are_no_curve_or_given_twice_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = folder(tmp_path / "one", POINT)
    with pytest.raises(DataError, match="a curve is given twice"):
        over_tasks([one, one])
    (tmp_path / "two").mkdir()
    assert main([str(one), str(tmp_path / "two")]) == 1
    assert "two is not a finished curve: no curve.json in it" in capsys.readouterr().err
    (tmp_path / "two" / "curve.json").write_text('[{"arm": "scratch"}]')
    with pytest.raises(DataError, match="is damaged or of another version"):
        over_tasks([tmp_path / "two"])
