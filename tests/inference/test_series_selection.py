from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from medvit.errors import ConfigError, DataError
from medvit.inference.series_selection import NoSeriesError, check_rule, choose, studies
from medvit.models.image import AppliesTo
from medvit.records import Identity, Item, Refusal
from medvit.writers import Study
from tests.plugins.mr_series import SeriesMaker

MR = AppliesTo(modality="MR", kind="volume", description="HippoCrop")


class Plain:
    """Readable pseudonyms."""

    def study(self, identifier: str, *, patient: str | None = None) -> str:
        return f"s-{identifier}" if patient is None else f"s-{identifier}-{patient}"

    def series(self, identifier: str) -> str:
        return f"e-{identifier}"


def item(
    tmp_path: Path, series: str, *, num_files: int = 1, modality: str = "MR", description: str = "HippoCrop"
) -> Item:
    files = tuple(tmp_path / f"{series}-{n}.dcm" for n in range(num_files))
    for file in files:
        file.touch()
    return Item("dicom", files, "volume", modality, identity=Identity("p", "1.2", series), description=description)


def test_only_the_series_the_model_was_made_for_is_chosen(tmp_path: Path) -> None:
    fits = item(tmp_path, "a", description="3D hippocrop left")
    others = [
        item(tmp_path, "b", description="T1 post"),
        item(tmp_path, "c", modality="CT"),
        Item("dicom", (tmp_path / "d.dcm",), "image", "MR", description="HippoCrop"),
    ]
    assert choose(Study("s", (*others, fits)), MR) == (fits,)


def test_a_study_without_such_a_series_says_what_it_has_and_not_how_it_is_called(tmp_path: Path) -> None:
    study = Study("s", (item(tmp_path, "a", description="Jane Doe"), item(tmp_path, "b", modality="CT")))
    with pytest.raises(
        NoSeriesError, match="1 series of CT as volume, 1 series of MR as volume; the model takes MR"
    ) as e:
        choose(study, MR)
    assert "Jane" not in str(e.value)


def test_of_several_that_fit_the_one_with_most_slices_is_best(tmp_path: Path) -> None:
    few, many, as_many = (item(tmp_path, name, num_files=n) for name, n in (("a", 2), ("c", 5), ("b", 5)))
    study = Study("s", (few, many, as_many))
    assert choose(study, MR) == (as_many,)
    assert choose(study, MR, "all") == (as_many, many, few)
    with pytest.raises(DataError, match="3 series fit"):
        choose(study, MR, "one")


def test_images_are_grouped_by_study_and_a_file_of_another_format_is_a_study(tmp_path: Path) -> None:
    files = [Item("nifti", (tmp_path / name / "brain.nii.gz",), "volume") for name in ("a", "b")]
    for file in files:
        file.files[0].parent.mkdir()
        file.files[0].touch()
    found = studies([item(tmp_path, "x"), *files, item(tmp_path, "y")], tmp_path, Plain(), MR)
    assert [(study.name, len(study.items)) for study in found.studies] == [
        ("s-1.2", 2),
        ("s-a/brain.nii.gz#0", 1),
        ("s-b/brain.nii.gz#0", 1),
    ]
    assert choose(found.studies[1], MR) == (files[0],)


def test_dicom_without_a_study_uid_is_one_study_a_folder(make_series: SeriesMaker, tmp_path: Path) -> None:
    items = [make_series(name=name, without=("StudyInstanceUID",))[0] for name in ("one", "two")]
    found = studies(items, tmp_path / "source", Plain(), MR)
    assert [study.name for study in found.studies] == ["s-one/", "s-two/"]


def test_a_study_whose_only_fitting_series_is_refused_has_failed_and_is_not_skipped(make_series: SeriesMaker) -> None:
    broken, _ = make_series(name="broken", description="HippoCrop", study="1.2.3")
    other, _ = make_series(name="other", study="1.2.3")
    refusal = Refusal(broken.files, "geometry", "slice gaps range from 1.00 to 2.00 mm")
    (study,) = studies([refusal, other], broken.files[0].parents[1], Plain(), MR).studies
    with pytest.raises(DataError, match="slice gaps") as caught:
        choose(study, MR)
    assert (caught.value.code, type(caught.value)) == ("geometry", DataError)
    assert DataError.code == "data"


def test_a_refused_series_that_would_not_fit_leaves_its_study_alone(make_series: SeriesMaker) -> None:
    good, _ = make_series(name="good", description="HippoCrop", study="1.2.3")
    scout, _ = make_series(name="scout", description="Scout", study="1.2.3")
    lone, _ = make_series(name="lone", description="Scout", study="1.2.4")
    refusals = [Refusal(i.files, "geometry", "three planes") for i in (scout, lone)]
    with_good, without = studies([*refusals, good], good.files[0].parents[1], Plain(), MR).studies
    assert choose(with_good, MR) == (good,)
    with pytest.raises(NoSeriesError, match="no series that can be read"):
        choose(without, MR)


def test_a_damaged_file_is_told_of_with_the_study_beside_it_or_else_by_itself(make_series: SeriesMaker) -> None:
    good, _ = make_series(description="HippoCrop")
    root = good.files[0].parents[1]
    beside, apart = good.files[0].parent / "x.dcm", root / "elsewhere" / "x.dcm"
    found = studies(
        [
            good,
            *(Refusal((f,), "unreadable", "cut short") for f in (beside, apart)),
            Refusal((root,), "not_an_image", ""),
        ],
        root,
        Plain(),
        MR,
    )
    with_note, stray = sorted(found.studies, key=lambda s: -len(s.items))
    assert (with_note.num_unreadable, stray.name, found.num_ignored) == (1, "s-elsewhere/x.dcm", 1)
    with pytest.raises(DataError, match="cut short"):
        choose(stray, MR)


def test_a_rule_that_is_no_regular_expression_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="not a regular expression"):
        check_rule(AppliesTo(description="T1("))


def test_two_patients_under_one_study_uid_are_two_studies_also_where_one_is_refused(
    make_series: SeriesMaker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = [replace(item(tmp_path, name), identity=Identity(name, "1.2", name)) for name in ("a", "b")]
    index = studies(found, tmp_path, Plain(), MR)
    assert [(study.name, study.num_others) for study in index.studies] == [("s-1.2-a", 1), ("s-1.2-b", 1)]
    assert [study.items for study in index.studies] == [(found[0],), (found[1],)]
    assert "several patients share a StudyInstanceUID" in caplog.text

    refused, _ = make_series(description="HippoCrop", study="1.2")
    refusal = Refusal(refused.files, "geometry", "a slice is missing")
    index = studies([found[0], refusal], tmp_path, Plain(), MR)
    assert {study.name: len(study.refusals) for study in index.studies} == {"s-1.2-a": 0, "s-1.2-SECRET-7": 1}


def test_patient_ids_that_may_be_one_patients_are_reported_by_pseudonym(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = [
        replace(item(tmp_path, f"x{n}"), identity=Identity(patient, f"1.{n}", "e"))
        for n, patient in enumerate(("AB007", "ab 7", "AB8"))
    ]
    studies(found, tmp_path, Plain(), MR)
    assert (
        "2 PatientIDs differ only in spaces, case or zeros, and count as 2 patients: studies s-1.0, s-1.1"
        in caplog.text
    )
    assert "AB" not in caplog.text


def test_nobody_waits_for_a_named_pipe_that_was_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.dcm")
    found = studies([Refusal((tmp_path / "pipe.dcm",), "unsupported", "a named pipe")], tmp_path, Plain(), MR)
    assert [study.name for study in found.studies] == ["s-pipe.dcm"]
