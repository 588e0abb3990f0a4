from __future__ import annotations

import csv
import errno
from pathlib import Path

import pytest

from medvit.artifacts import STATUS
from medvit.errors import GeometryError, OutputError
from medvit.inference.series_selection import NoSeriesError
from medvit.inference.worklist import PREDICTIONS, Worklist
from medvit.writers import Finding, Result, Study
from medvit.writers.optional import LACKS

STUDIES = [Study(f"s-{n}", ()) for n in range(4)]
DONE = Result("done", outputs=("a.txt",), findings=(Finding("e-1", "liver", volume_ml=1.5, num_voxels=3),))


def perform(study: Study, folder: Path) -> Result:
    (folder / "a.txt").write_text(study.name)
    if study.name == "s-1":
        raise GeometryError("slices are missing")
    if study.name == "s-2":
        raise NoSeriesError("the study has 1 series of CT as volume")
    return DONE


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(encoding="utf-8")))


def test_one_bad_study_never_stops_the_others(tmp_path: Path) -> None:
    worklist = Worklist(tmp_path)
    worklist.run(STUDIES, perform)
    lines = {line["study"]: (line["status"], line["code"], line["outputs"]) for line in table(tmp_path / STATUS)}
    assert lines == {
        "s-0": ("done", "", "a.txt"),
        "s-1": ("failed", "geometry", ""),
        "s-2": ("skipped", "no_series", ""),
        "s-3": ("done", "", "a.txt"),
    }
    assert worklist.failures == ["s-1: slices are missing"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["predictions.csv", "s-0", "s-3", "status.csv"]
    assert table(tmp_path / PREDICTIONS)[0] == {
        "study": "s-0", "series": "e-1", "class": "liver", "probability": "", "volume_ml": "1.5", "num_voxels": "3",
            "value": "", "model": "", "operating_point": "", "threshold": "", "call": "",
    }  # fmt: skip


@pytest.mark.parametrize("below", [0.0, 1e-7, 1e-9, 1e-16])
def test_a_call_agrees_with_its_printed_probability_and_threshold(tmp_path: Path, below: float) -> None:
    threshold = 0.5
    call = "negative" if threshold - below < threshold else "positive"
    finding = Finding("e-1", "bright", probability=threshold - below, threshold=threshold, call=call)
    Worklist(tmp_path).record("s-0", Result("done", findings=(finding,)))
    (row,) = table(tmp_path / PREDICTIONS)
    assert (float(row["probability"]) >= float(row["threshold"])) == (row["call"] == "positive")
    assert row["threshold"] == "0.5"


def test_reasons_are_counted_and_a_result_that_lacks_an_object_is_named(tmp_path: Path) -> None:
    worklist = Worklist(tmp_path)
    worklist.run(STUDIES, perform)
    worklist.record("s-4", Result("done", reason=f"derived; {LACKS} preview: too large"))
    worklist.record("s-5", Result("failed", "geometry", "slices are missing"))
    assert worklist.lacking == [f"s-4: derived; {LACKS} preview: too large"]
    assert worklist.reasons == [
        "2 failed: slices are missing",
        "1 skipped: the study has 1 series of CT as volume",
        f"1 done: derived; {LACKS} preview: too large",
    ]


def test_an_unexpected_error_is_told_by_its_kind_and_not_by_its_text(tmp_path: Path) -> None:
    def leak(study: Study, folder: Path) -> Result:
        raise KeyError("Doe^Jane")

    Worklist(tmp_path).run(STUDIES[:1], leak)
    assert "Jane" not in (tmp_path / STATUS).read_text()
    assert "unexpected KeyError" in (tmp_path / STATUS).read_text()


@pytest.mark.parametrize("error", [OutputError("full"), OSError(errno.ENOSPC, "full")])
def test_a_full_disk_stops_the_batch_and_leaves_no_half_study(tmp_path: Path, error: Exception) -> None:
    def full(study: Study, folder: Path) -> Result:
        (folder / "half").touch()
        raise error

    with pytest.raises(type(error)):
        Worklist(tmp_path).run(STUDIES, full)
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_left_of_a_study_is_removed(tmp_path: Path) -> None:
    for name in (".s-9.partial", "s-8", "notes.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mask.nii.gz").touch()
    Worklist(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.partial", "s-8"]


def test_a_resumed_batch_does_again_what_is_not_done_and_nothing_else(tmp_path: Path) -> None:
    Worklist(tmp_path).run(STUDIES[:3], perform)
    again: list[str] = []

    def mended(study: Study, folder: Path) -> Result:
        again.append(study.name)
        return DONE

    resumed = Worklist(tmp_path)
    resumed.run(STUDIES, mended)
    assert again == ["s-1", "s-2", "s-3"]
    assert dict(resumed.counts) == {"done": 4}
    assert [row["study"] for row in table(tmp_path / PREDICTIONS)] == ["s-0", "s-1", "s-2", "s-3"]
