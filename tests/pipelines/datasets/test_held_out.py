"""Held-out sites and dates decide the test split; the dataset contains neither a name of a site nor a date."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import TypedDict

import pyarrow.parquet as pq
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from medvit import phantoms
from medvit.dataset.manifest import Manifest
from medvit.deidentification import crosswalk
from medvit.errors import ConfigError, DataError
from pipelines.__main__ import main
from pipelines.ingest import IngestConfig, ingest

HOSPITALS = ("Granthamshire General", "Clinique Ottokarla", "Wolfsbergklinikum")
NUM_PATIENTS = 12


class Facts(TypedDict):
    """Hospital and study date of an image."""

    site: str
    day: date


FIRST_DAY = date(2021, 3, 17)
TABLE: list[Facts] = [
    {"site": HOSPITALS[n % 3], "day": FIRST_DAY + timedelta(days=120 * n)} for n in range(NUM_PATIENTS)
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One radiograph for each of twelve patients of three hospitals, 120 days apart, and a second one of the first.

    The second radiograph of the first patient is the newest image, from another hospital.
    """
    folder = tmp_path_factory.mktemp("source")
    phantoms.write_radiograph_studies(folder, NUM_PATIENTS)
    paths = sorted(folder.rglob("*.dcm"), key=lambda path: path.name)
    for path, facts in zip(paths, TABLE, strict=True):
        _write(path, path, **facts)
    second = _write(paths[0], folder / "second.dcm", site=HOSPITALS[1], day=TABLE[-1]["day"])
    second.StudyInstanceUID, second.SeriesInstanceUID = generate_uid(), generate_uid()
    second.SOPInstanceUID = second.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    second.save_as(folder / "second.dcm")
    return folder


def _write(path: Path, target: Path, *, site: str, day: date) -> Dataset:
    dataset = dcmread(path)
    dataset.InstitutionName, dataset.StudyDate = site, f"{day:%Y%m%d}"
    dataset.save_as(target)
    return dataset


def made(source: Path, folder: Path, **splits: object) -> Manifest:
    tree = {"source": source, "dataset": folder / "dataset", "key": folder / "site.key", "splits": splits}
    return ingest(IngestConfig.parse({**tree, "tracking": {"enabled": False}}))


def test_all_patients_of_a_held_out_site_are_in_test_as_a_whole(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = made(source, tmp_path, test_sites=["  clinique OTTOKARLA "])
    sites = {row.attributes["site"] for row in manifest}
    (held,) = {
        name for name, original in _names(tmp_path) if name in sites and original == HOSPITALS[1]
    }  # the key holder's crosswalk names the site
    assert len(sites) == 3
    patients = {row.patient_id for row in manifest if row.attributes["site"] == held}
    assert {row.patient_id for row in manifest if row.split == "test"} == patients
    assert len(patients) == 5  # every third of twelve, and the patient with an image from two sites
    assert len([row for row in manifest if row.split == "test"]) == 6
    assert "1 of the 5 test patients also have images on the other side" in caplog.text
    (note,) = manifest.facts.notes
    assert held in note
    assert "5 patients; 1 of them also have images from another site" in note


def test_patients_with_a_study_since_a_date_are_in_test(source: Path, tmp_path: Path) -> None:
    since = TABLE[8]["day"]
    manifest = made(source, tmp_path, test_since=f"{since}")
    test = [row for row in manifest if row.split == "test"]
    assert len({row.patient_id for row in test}) == 5  # the last four, and the first one for its second study
    assert len(test) == 6
    assert {row.attributes["period"] for row in manifest} == {"year 1", "year 2", "year 3", "year 4"}
    assert all(row.split in ("train", "val") for row in manifest if row not in test)


@pytest.mark.parametrize("splits", [{"test_sites": [HOSPITALS[0]]}, {"test_since": "2023-06-01"}])
def test_the_dataset_names_no_site_and_no_date(source: Path, tmp_path: Path, splits: dict[str, object]) -> None:
    manifest = made(source, tmp_path, **splits)
    files = [path for path in manifest.folder.rglob("*") if path.is_file()]
    content = b"".join(path.read_bytes() for path in files).lower()
    content += b"".join(
        str(pq.read_table(path).to_pylist()).lower().encode() for path in files if path.match("*.parquet")
    )
    words = [word for name in HOSPITALS for word in name.split()] + ["2023-06-01", "20230601"]
    words += [text for facts in TABLE for text in (f"{facts['day']:%Y%m%d}", f"{facts['day']}")]
    assert [word for word in words if word.lower().encode() in content] == []
    audit = ["audit", f"source={source}", f"dataset={manifest.folder}", f"key={tmp_path / 'site.key'}"]
    assert main([*audit, f"output={tmp_path / 'audit'}"]) == 0


def test_a_pseudonym_of_an_earlier_dataset_names_the_site_as_well(source: Path, tmp_path: Path) -> None:
    first = made(source, tmp_path, test_sites=[HOSPITALS[2]])
    held = {row.attributes["site"] for row in first if row.split == "test"}
    (name,) = {one for one, original in _names(tmp_path) if original == HOSPITALS[2]}
    assert name in held
    again = ingest(
        IngestConfig.parse(
            {
                "source": source,
                "dataset": tmp_path / "again",
                "name": "dataset",
                "key": tmp_path / "site.key",
                "splits": {"test_sites": [name]},
                "tracking": {"enabled": False},
            }
        )
    )
    assert {row.image_id: row.split for row in again} == {row.image_id: row.split for row in first}


def test_a_site_that_no_image_has_is_refused_without_its_name(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no image is of site 2 of the list; the images are of 3 sites: h-") as caught:
        made(source, tmp_path, test_sites=[HOSPITALS[0], "Sankt Quentina"])
    assert not any(word in str(caught.value) for word in ("Quentina", *HOSPITALS))


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (
            {"test_sites": list(HOSPITALS)},
            "12 of 12 patients into the test split; expected at least one on either side",
        ),
        ({"test_since": "2050-01-01"}, "0 of 12 patients into the test split"),
    ],
)
def test_nobody_on_one_side_is_refused(source: Path, tmp_path: Path, splits: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        made(source, tmp_path, **splits)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"test_sites": ["A"], "test": 0.3}, "test_sites and test are both given"),
        ({"test_sites": ["A"], "test_since": "2024-01-01"}, "test_sites and test_since are both given"),
        ({"test_since": "yesterday"}, "splits.test_since"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    source: Path, tmp_path: Path, splits: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        made(source, tmp_path, **splits)


def test_the_site_of_images_without_one_comes_from_the_path(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for hospital in ("north", "south"):
        phantoms.write_radiographs(source / hospital, 6, seed=len(hospital) + ord(hospital[0]))
    tree = {"source": source, "dataset": tmp_path / "dataset", "key": tmp_path / "site.key"}
    options = {"scanning": {"site_from": "^([^/]+)/"}, "splits": {"test_sites": ["south"], "val": 0.4}}
    manifest = ingest(IngestConfig.parse({**tree, **options, "tracking": {"enabled": False}}))
    assert len([row for row in manifest if row.split == "test"]) == 6
    assert len({row.attributes["site"] for row in manifest if row.split == "test"}) == 1


def _names(folder: Path) -> list[tuple[str, str]]:
    text = crosswalk.place(folder / "site.key", "dataset").read_text(encoding="utf-8")
    return [(line.partition(",")[0], line.partition(",")[2]) for line in text.splitlines()]
