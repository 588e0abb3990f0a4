from __future__ import annotations

import csv
import errno
from pathlib import Path

import pytest

from medvit.artifacts import STATUS
from medvit.errors import GeometryError, OutputError
from medvit.inference.attempt import Perform
from medvit.inference.batch import GONE, is_complete, process
from medvit.inference.outcomes import PREDICTIONS, BatchOutcomes
from medvit.inference.series_selection import NoSeriesError
from medvit.inference.worklist import DATABASE, Worklist
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


def run(folder: Path, studies: list[Study], perform: Perform = perform) -> BatchOutcomes:
    """Process studies in a work list, and write its tables."""
    worklist = Worklist(folder)
    try:
        with worklist.working():
            process(worklist, studies, perform)
        outcomes = worklist.outcomes()
        outcomes.write(folder)
        return outcomes
    finally:
        worklist.close()


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(encoding="utf-8")))


def test_one_bad_study_never_stops_the_others(tmp_path: Path) -> None:
    outcomes = run(tmp_path, STUDIES)
    lines = {line["study"]: (line["status"], line["code"], line["outputs"]) for line in table(tmp_path / STATUS)}
    assert lines == {
        "s-0": ("done", "", "a.txt"),
        "s-1": ("failed", "geometry", ""),
        "s-2": ("skipped", "no_series", ""),
        "s-3": ("done", "", "a.txt"),
    }
    assert outcomes.failures == ["s-1: slices are missing"]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [DATABASE, "predictions.csv", "s-0", "s-3", "status.csv"]
    assert table(tmp_path / PREDICTIONS)[0] == {
        "study": "s-0", "series": "e-1", "class": "liver", "probability": "", "volume_ml": "1.5", "num_voxels": "3",
            "value": "", "model": "", "operating_point": "", "threshold": "", "call": "",
            "in_set": "", "low": "", "high": "", "coverage": "", "entropy": "", "mutual_information": "", "spread": "",
    }  # fmt: skip


@pytest.mark.parametrize("below", [0.0, 1e-7, 1e-9, 1e-16])
def test_a_call_agrees_with_its_printed_probability_and_threshold(tmp_path: Path, below: float) -> None:
    threshold = 0.5
    call = "negative" if threshold - below < threshold else "positive"
    finding = Finding("e-1", "bright", probability=threshold - below, threshold=threshold, call=call)
    run(tmp_path, STUDIES[:1], lambda study, folder: Result("done", findings=(finding,)))
    (row,) = table(tmp_path / PREDICTIONS)
    assert (float(row["probability"]) >= float(row["threshold"])) == (row["call"] == "positive")
    assert row["threshold"] == "0.5"


def test_reasons_are_counted_and_a_result_that_lacks_an_object_is_named(tmp_path: Path) -> None:
    def lack(study: Study, folder: Path) -> Result:
        if study.name == "s-4":
            return Result("done", reason=f"derived; {LACKS} preview: too large")
        return Result("failed", "geometry", "slices are missing") if study.name == "s-5" else perform(study, folder)

    outcomes = run(tmp_path, [*STUDIES, Study("s-4", ()), Study("s-5", ())], lack)
    assert outcomes.lacking == [f"s-4: derived; {LACKS} preview: too large"]
    assert outcomes.reasons == [
        "2 failed: slices are missing",
        "1 skipped: the study has 1 series of CT as volume",
        f"1 done: derived; {LACKS} preview: too large",
    ]


def test_an_unexpected_error_is_told_by_its_kind_and_not_by_its_text(tmp_path: Path) -> None:
    def leak(study: Study, folder: Path) -> Result:
        raise KeyError("Doe^Jane")

    run(tmp_path, STUDIES[:1], leak)
    assert b"Jane" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert "unexpected KeyError" in (tmp_path / STATUS).read_text()


@pytest.mark.parametrize("error", [OutputError("full"), OSError(errno.ENOSPC, "full")])
def test_a_full_disk_stops_the_batch_and_leaves_no_half_study(tmp_path: Path, error: Exception) -> None:
    def full(study: Study, folder: Path) -> Result:
        (folder / "half").touch()
        raise error

    with pytest.raises(type(error)):
        run(tmp_path, STUDIES, full)
    assert [path.name for path in tmp_path.iterdir()] == [DATABASE]
    assert run(tmp_path, STUDIES).counts == {"done": 2, "failed": 1, "skipped": 1}  # an orderly end does not count


def test_a_continued_batch_processes_the_studies_without_an_outcome_and_nothing_else(tmp_path: Path) -> None:
    run(tmp_path, STUDIES[:3])
    again: list[str] = []

    def mended(study: Study, folder: Path) -> Result:
        again.append(study.name)
        return DONE

    assert run(tmp_path, STUDIES, mended).counts == {"done": 2, "failed": 1, "skipped": 1}
    worklist = Worklist(tmp_path)
    assert worklist.retry_failed() == 1
    worklist.close()
    assert run(tmp_path, STUDIES, mended).counts == {"done": 3, "skipped": 1}
    assert again == ["s-3", "s-1"]
    assert [row["study"] for row in table(tmp_path / PREDICTIONS)] == ["s-0", "s-1", "s-3"]


def test_a_study_that_vanished_from_the_source_fails_and_does_not_keep_the_batch_waiting(tmp_path: Path) -> None:
    worklist = Worklist(tmp_path)
    worklist.add([study.name for study in STUDIES])
    with worklist.working():
        before = worklist.waiting()
        process(worklist, STUDIES[:3], perform)
        assert is_complete(worklist, before - {study.name for study in STUDIES[:3]})
    assert worklist.outcomes().failures == ["s-1: slices are missing", f"s-3: {GONE.reason}"]
    worklist.close()
