"""UIDs of results follow from what they were made of, so that an archive stores each result once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import requests

from medvit.readers import find, read
from medvit.records import Item
from medvit.types import Prediction
from medvit.writers import ImageContext, Maker
from medvit.writers.dicom_parts.source_instances import read_sources
from medvit.writers.dicom_seg import write_seg
from tests.plugins.mr_series import SeriesMaker
from tests.sources.conftest import PASSWORD, USER, Orthanc
from tests.writers.test_dicom_seg import asymmetric, context_of

TIMES = ("InstanceCreationDate", "InstanceCreationTime", "ContentDate", "ContentTime")


def rewritten(item: Item, **elements: Any) -> Item:
    """The item after elements of all of its files have changed."""
    for path in item.files:
        dataset = pydicom.dcmread(path)
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        dataset.save_as(path)
    (found,) = find(list(item.files))
    assert isinstance(found, Item)
    return found


def written(path: Path, context: ImageContext) -> pydicom.Dataset:
    write_seg(path, context, read_sources(context.item))
    return pydicom.dcmread(path)


def without_times(dataset: pydicom.Dataset) -> str:
    for keyword in TIMES:
        delattr(dataset, keyword)
    for equipment in dataset.ContributingEquipmentSequence:
        equipment.pop("ContributionDateTime", None)
    return str(dataset) + str(dataset.PixelData)


def test_the_same_input_gives_the_same_object_but_for_its_times(make_series: SeriesMaker, tmp_path: Path) -> None:
    item, image = make_series()
    first = written(tmp_path / "a.dcm", context_of(item, asymmetric(image)))
    second = written(tmp_path / "b.dcm", context_of(item, asymmetric(image)))
    assert first.SOPInstanceUID.startswith("2.25.")
    assert without_times(first) == without_times(second)


def test_the_run_does_not_change_the_uids(make_series: SeriesMaker, tmp_path: Path) -> None:
    item, image = make_series()
    context = context_of(item, asymmetric(image))
    first = written(tmp_path / "a.dcm", context)
    other = written(tmp_path / "b.dcm", replace(context, maker=replace(context.maker, run_id="run2")))
    assert (first.SOPInstanceUID, first.SeriesInstanceUID) == (other.SOPInstanceUID, other.SeriesInstanceUID)
    assert first.SOPInstanceUID != first.SeriesInstanceUID


def moved(prediction: Prediction) -> Prediction:
    assert prediction.mask is not None
    return replace(prediction, mask=np.roll(prediction.mask, 1))


def of_maker(**changes: Any) -> Callable[[ImageContext], ImageContext]:
    return lambda context: replace(context, maker=replace(context.maker, **changes))


def of_source(**elements: Any) -> Callable[[ImageContext], ImageContext]:
    def change(context: ImageContext) -> ImageContext:
        item = rewritten(context.item, **elements)
        return replace(context, item=item, image=read(item))

    return change


@pytest.mark.parametrize(
    "change",
    [
        of_maker(version="0.2.0"),
        of_maker(model_sha256="cd" * 32),
        of_maker(name="another"),
        of_maker(series_number=7),
        of_maker(settings='{"device": "cuda"}'),
        of_source(PatientID="SECRET-8"),
        of_source(PatientName="Doe^John"),
        of_source(StudyInstanceUID="1.2.3"),
        of_source(SeriesInstanceUID="1.2.3"),
        of_source(AccessionNumber="A1"),
        of_source(PixelData=bytes(160)),
        lambda context: replace(context, codes={"Liver": "SCT:1:Another liver"}),
        lambda context: replace(context, prediction=moved(context.prediction)),
        lambda context: replace(context, item=replace(context.item, part="echo time 30 ms")),
    ],
)
def test_another_input_gives_another_object(
    make_series: SeriesMaker, tmp_path: Path, change: Callable[[ImageContext], ImageContext]
) -> None:
    item, image = make_series()
    context = context_of(item, asymmetric(image))
    first, other = written(tmp_path / "a.dcm", context), written(tmp_path / "b.dcm", change(context))
    assert first.SOPInstanceUID != other.SOPInstanceUID
    assert first.SeriesInstanceUID != other.SeriesInstanceUID


def test_a_class_of_a_study_is_tracked_under_one_uid_by_every_model(make_series: SeriesMaker, tmp_path: Path) -> None:
    item, image = make_series()
    context = context_of(item, asymmetric(image))
    found = []
    for maker in (context.maker, Maker("0.2.0", "cd" * 32)):
        segments = written(tmp_path / "a.dcm", replace(context, maker=maker)).SegmentSequence
        found.append([(one.TrackingID, one.TrackingUID) for one in segments])
    assert found[0] == found[1]
    assert len(set(found[0])) == 3
    of_another, _ = make_series(name="other")
    others = written(tmp_path / "b.dcm", context_of(of_another, asymmetric(image))).SegmentSequence
    assert not {uid for _, uid in found[0]} & {one.TrackingUID for one in others}


@pytest.fixture(params=[False, True], ids=["keeps", "overwrites"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Orthanc, bool]]:
    server = Orthanc(tmp_path / "orthanc", {"OverwriteInstances": request.param}).start()
    yield server, request.param
    server.kill()


def test_an_archive_stores_a_repeated_result_once(
    make_series: SeriesMaker, tmp_path: Path, archive: tuple[Orthanc, bool]
) -> None:
    server, overwrites = archive
    item, image = make_series()
    context = context_of(item, asymmetric(image))
    server.upload(list(item.files))
    for run in ("run1", "run2"):
        write_seg(tmp_path / "seg.dcm", of_maker(run_id=run)(context), read_sources(item))
        server.upload([tmp_path / "seg.dcm"])
    write_seg(tmp_path / "seg.dcm", of_maker(version="0.2.0")(context), read_sources(item))
    server.upload([tmp_path / "seg.dcm"])
    root = f"http://127.0.0.1:{server.http_port}"
    series = requests.get(f"{root}/series?expand", auth=(USER, PASSWORD), timeout=30).json()
    segmentations = [one for one in series if one["MainDicomTags"]["Modality"] == "SEG"]
    assert [len(one["Instances"]) for one in segmentations] == [1, 1]
    assert len({one["ParentStudy"] for one in series}) == 1
    stored = []
    for one in segmentations:
        (instance,) = one["Instances"]
        answer = requests.get(f"{root}/instances/{instance}/file", auth=(USER, PASSWORD), timeout=30)
        (tmp_path / "stored.dcm").write_bytes(answer.content)
        dataset = pydicom.dcmread(tmp_path / "stored.dcm")
        stored.append((dataset.SoftwareVersions, dataset.ContributingEquipmentSequence[0].ContributionDescription))
    (of_first,) = [text for version, text in stored if version == "0.1.0"]
    assert of_first.endswith("run2" if overwrites else "run1")
