"""Audit of identifiers planted in every possible place: it finds none in datasets, and all in other folders."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest
from nibabel.nifti1 import Nifti1Extension
from PIL import Image as Picture
from PIL.PngImagePlugin import PngInfo
from pydicom import Dataset, dcmread
from pydicom.datadict import keyword_dict
from pydicom.sequence import Sequence

from medvit import phantoms
from medvit.dataset import quarantine
from medvit.dataset.manifest import Manifest
from pipelines.__main__ import SOME_ITEMS_FAILED, main
from tests.plugins.tracking_template import MakeStore
from tests.processes.forked import forked_command

NAME, GIVEN, MIDDLE, NUMBER = "Zebedeeson", "Quentina", "Ottokarla", "QX7731904"
PLACE, DOCTOR, FREE, FOREIGN = "Granthamshire", "Wolfsberger", "Birgittasdottir", "Müllerström"
DAY, DAY_READ, PHONE = "19630412", "1963-04-12", "5550173342"
UID = "1.2.826.0.1.3680043.9.7731.4.1.55501733"
WORDS = (NAME, GIVEN, MIDDLE, NUMBER, PLACE, DOCTOR, FREE, FOREIGN, DAY, DAY_READ, PHONE, UID)

NUM_SLICES = 5

EVERY_VR: dict[str, object] = {
    "RetrieveAETitle": NUMBER,
    "PatientAge": NUMBER[:4],
    "AcquisitionContextSequence": None,
    "RequestedContrastAgent": FREE,
    "ContrastBolusAgent": f"Iodine {NAME}",
    "BodyPartExamined": PLACE.upper(),
    "StudyDate": DAY,
    "AcquisitionDateTime": f"{DAY}101112.123456+0100",
    "PatientWeight": "77",
    "SpecialNeeds": f"{NAME} {GIVEN}",
    "ImageComments": f"Ring {DOCTOR} at {PHONE}, born {DAY_READ}",
    "PatientComments": f"Wife of {FREE}",
    "DerivationDescription": f"Derived for {NAME}",
    "ProtocolName": f"Abdomen {PLACE} 3mm",
    "SeriesDescription": f"T2 ax {NAME}, {GIVEN} {DAY_READ}",
    "StudyDescription": f"Abdomen of {NAME.upper()} {NUMBER}",
    "PatientName": f"{NAME}^{GIVEN}^{MIDDLE}^Dr^Jr={FOREIGN}^{GIVEN}",
    "OtherPatientNames": [f"{FOREIGN}^{GIVEN}", f"{NAME}^{MIDDLE}"],
    "PatientID": NUMBER,
    "OtherPatientIDs": [NUMBER, f"{NUMBER}B"],
    "AccessionNumber": NUMBER,
    "StudyID": NUMBER,
    "InstitutionName": f"{PLACE} General",
    "InstitutionAddress": f"1 Street\r\n{PLACE}",
    "InstitutionalDepartmentName": PLACE,
    "ReferringPhysicianName": f"{DOCTOR}^Ada",
    "PerformingPhysicianName": [f"{DOCTOR}^Ada", f"{FREE}^Eve"],
    "OperatorsName": f"{FREE}^Eve",
    "PatientAddress": f"7 {PLACE} Road",
    "PatientTelephoneNumbers": PHONE,
    "PatientBirthDate": DAY,
    "PatientMotherBirthName": f"{FREE}^Mia",
    "DeviceSerialNumber": "SN-1",
    "StationName": f"CT-{PLACE}"[:16],
    "RetrieveURL": f"http://{PLACE.lower()}.example/{NUMBER}",
    "InstanceCreatorUID": UID,
    "UniqueDeviceIdentifier": NUMBER,
    "PixelDataProviderURL": f"http://{PLACE.lower()}.example/{NUMBER}",
    "TextValue": f"{NAME} {NUMBER}",
    "LongCodeValue": NUMBER,
    "EncapsulatedDocument": f"{NAME} {NUMBER}  ".encode(),
    "CertificateOfSigner": f"{NAME} {NUMBER}  ".encode(),
    "SelectorUNValue": f"{NAME} {NUMBER}  ".encode(),
    "TrackPointIndexList": (NAME * 2).encode()[:20],
    "PointCoordinatesData": (NAME * 2).encode()[:20],
    "DoublePointCoordinatesData": (NAME * 4).encode()[:40],
    "SelectorOVValue": (NAME * 4).encode()[:40],
    "PatientBirthDateInAlternativeCalendar": f"born {DAY}",
    "PatientInsurancePlanCodeSequence": None,
}
"""Keyword -> value; between them every VR that can contain a text, and OB, OD, OF, OL, OV, OW, UN, SQ."""


def item_of(keyword: str, value: object) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = NUMBER, "99LOCAL", f"{NAME} {PLACE}"
    item.ReferencedSOPInstanceUID, item.PatientName, item.TextString = UID, f"{NAME}^{GIVEN}", f"{FREE} {NUMBER}"
    setattr(item, keyword, value)
    return Sequence([item])


def plant(dataset: Dataset) -> None:
    dataset.SpecificCharacterSet = ["ISO_IR 100"]
    for keyword, value in EVERY_VR.items():
        setattr(dataset, keyword, item_of("PersonName", f"{NAME}^{GIVEN}") if value is None else value)
    dataset.StudyInstanceUID = f"{UID}.1"
    dataset.RequestAttributesSequence = item_of("ScheduledProcedureStepDescription", f"{NAME} {DAY}")
    dataset.ProcedureCodeSequence = item_of("CodeMeaning", f"{NAME} {FREE}")
    dataset.ReferencedStudySequence = item_of("ReferencedSOPInstanceUID", UID)
    dataset.ReferencedImageSequence = item_of("ReferencedSOPInstanceUID", UID)
    dataset.ReferencedImageSequence[0].PurposeOfReferenceCodeSequence = item_of("CodeMeaning", FOREIGN)
    for group in (0x0009, 0x0019, 0x0021):
        block = dataset.private_block(group, f"{PLACE.upper()} 1.0", create=True)
        block.add_new(0x01, "LO", f"{NAME} {NUMBER}")
        block.add_new(0x02, "OB", f"..{NAME}^{GIVEN}..{NUMBER}".encode())
        block.add_new(0x03, "UN", f"{NAME}\\{NUMBER} ".encode())
        block.add_new(0x04, "SQ", item_of("PatientID", NUMBER))
        block.add_new(0x05, "PN", f"{FOREIGN}^{GIVEN}")
        block.add_new(0x06, "DA", DAY)
    safe = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    safe.add_new(0x0C, "IS", "1000")
    safe.add_new(0x0D, "LO", NAME)
    dataset.add_new(0x50000010, "US", 1)
    dataset.add_new(0x50002500, "LO", f"{NAME} {NUMBER}")
    dataset.add_new(0x60000010, "US", 8)
    dataset.add_new(0x60000022, "LO", f"{NAME} {NUMBER}")
    dataset.add_new(0x60003000, "OW", f"{NAME}{NUMBER} ".encode()[:18])
    dataset.add_new(0x60004000, "LT", f"{NAME} {NUMBER}")
    dataset.add_new(0xFFFCFFFC, "OB", f"{NAME} {NUMBER} ".encode())
    dataset.add_new(0x00091234, "LO", NAME)
    dataset.add_new(0x00282FF0, "LO", f"{NAME} of no known element")
    dataset.PixelData = bytes(dataset.PixelData) + f"{NAME} {NUMBER}".encode() + b" " * 2
    dataset.preamble = f"{NAME} {NUMBER}".encode().ljust(128, b"\0")
    dataset.file_meta.SourceApplicationEntityTitle = NUMBER
    dataset.file_meta.ImplementationVersionName = PLACE.upper()
    dataset.file_meta.PrivateInformationCreatorUID = UID
    dataset.file_meta.PrivateInformation = f"{NAME} ".encode()


def write_study(folder: Path, seed: int) -> None:
    """A study with few slices, since each is read often."""
    phantoms.write_ct_studies(folder, 1, seed=seed)
    for file in folder.rglob("abdomen/*.dcm"):
        if dcmread(file, stop_before_pixels=True).InstanceNumber > NUM_SLICES:
            file.unlink()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Studies, a volume and broken files that name the patient in every place."""
    folder = tmp_path_factory.mktemp("source") / PLACE
    study = folder / f"{NAME}_{NUMBER}" / DAY
    write_study(study, seed=0)
    write_study(folder / "other", seed=5)
    for number, file in enumerate(sorted(study.rglob("*.dcm"))):
        dataset = dcmread(file)
        plant(dataset)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{UID}.2.{number}"
        dataset.save_as(file.with_name(f"{NAME}-{number}.dcm"))
        file.unlink()
    whole = next(study.rglob("*.dcm")).read_bytes()
    (folder / f"{NAME}-truncated.dcm").write_bytes(whole[: len(whole) // 2])
    (folder / f"{NAME}-header.dcm").write_bytes(whole[:1500])
    for number, (old, new) in enumerate(
        [(b"ISO_IR 100", b"ISO_IR XYZ"), (b"MONOCHROME2", b"ZEBEDEESON "), (DAY.encode(), b"Quentina")]
    ):
        (folder / f"{GIVEN}-{number}.dcm").write_bytes(whole.replace(old, new))
    for name, content in (
        (f"{NAME}.png", b"\x89PNG\r\n\x1a\n" + NUMBER.encode()),
        (f"{NAME}.nii.gz", gzip.compress(NAME.encode() * 99)),
        (f"{NAME}.nii", NAME.encode() * 99),
        (f"{NAME}.jpg", b"\xff\xd8\xff\xe0" + NAME.encode()),
        (f"{NAME}.tif", b"II*\0" + NAME.encode() * 9),
        (
            f"{NAME}.mha",
            f"ObjectType = Image\nNDims = 3\nElementDataFile = /{NAME}/{NUMBER}\nComment = {NAME}".encode(),
        ),
        (f"{NAME}.nrrd", f"NRRD0004\ntype: {NAME}\n".encode()),
        (f"{NAME}.npz", b"PK\x03\x04" + NAME.encode()),
        (f"{NAME}.txt", NUMBER.encode()),
    ):
        (folder / name).write_bytes(content)
    image = nib.Nifti1Image(np.zeros((6, 7, 8), np.int16), np.eye(4))
    image.header["descrip"], image.header["db_name"] = f"{NAME} {DAY}".encode(), NUMBER.encode()
    image.header["intent_name"], image.header["aux_file"] = PLACE.encode(), f"{DOCTOR}.txt".encode()
    image.header.extensions.append(Nifti1Extension("comment", f"{FREE} {PHONE}".encode()))
    nib.save(image, folder / f"{GIVEN}_{NAME}.nii.gz")
    exif, notes = Picture.Exif(), PngInfo()
    exif[0x010E], exif[0x013B], exif[0x0132] = f"Of {NAME}", DOCTOR, DAY_READ.replace("-", ":") + " 10:11:12"
    notes.add_text("Comment", f"{FREE} {NUMBER}")
    picture = Picture.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64))
    picture.save(folder / "1.jpg", exif=exif, comment=f"Of {GIVEN}", xmp=f"<d>Of {PLACE}</d>".encode())
    picture.rotate(90).save(folder / "2.png", pnginfo=notes)
    return folder


@pytest.fixture(scope="module")
def made(source: Path, make_store: MakeStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dataset, the DICOM copy, the MLflow store and the log of a run in its own process."""
    folder = tmp_path_factory.mktemp("made")
    make_store(folder)  # where the run looks for it by default
    words = [f"source={source}", "dataset=dataset", "key=site.key", "deidentify=copy", "engine.num_processes=2"]
    with forked_command("ingest", *words, folder=folder) as process:
        pass
    (folder / "run.log").write_text(process.errors, encoding="utf-8")
    assert process.status == SOME_ITEMS_FAILED
    return folder


def audit(made: Path, source: Path, *words: str) -> int:
    tracking = f"tracking.uri=sqlite:///{made}/mlflow.db"
    copy = [] if any(word.startswith("copy_to") for word in words) else [f"copy_to={made / 'copy'}"]
    return main(
        [
            "audit",
            f"dataset={made / 'dataset'}",
            f"source={source}",
            f"key={made / 'site.key'}",
            tracking,
            f"output={tempfile.mkdtemp(dir=made.parent)}",
            *copy,
            *words,
        ]
    )


def texts_of(made: Path) -> Iterator[tuple[str, bytes]]:
    """Every file except the site's key and the files next to it, as bytes, unpacked if compressed."""
    for file in made.rglob("*"):
        if file.is_file() and not any(part.startswith("site.key") for part in file.parts):
            yield file.relative_to(made).as_posix(), file.read_bytes()
            if file.suffix == ".parquet":
                yield file.name, str(pq.read_table(file).to_pylist()).encode()
            if file.suffix == ".dcm":
                yield file.name, str(dcmread(file)).encode()


def test_no_planted_identifier_is_anywhere_afterwards(made: Path) -> None:
    assert len(Manifest.read(made / "dataset")) >= 6
    assert len(quarantine.read(made / "dataset")) >= 10
    assert len(list((made / "copy").rglob("*.dcm"))) >= 10
    for name, content in texts_of(made):
        assert [word for word in WORDS if word.casefold() in name.casefold()] == []
        for encoding in ("utf-8", "latin-1"):
            there = [word for word in WORDS if word.casefold().encode(encoding) in content.lower()]
            # A shifted date may happen to be another patient's: only the planted date must not occur anywhere.
            assert there == [], f"{name}: {there}"


def test_the_audit_agrees(made: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"places=[{made / 'run.log'}]"]
    assert audit(made, source, *words) == SOME_ITEMS_FAILED  # the broken pictures, whose texts nobody can read
    capsys.readouterr()
    assert audit(made, source, *words, "unread=warn") == 0
    shown = capsys.readouterr().out
    assert "found: nothing" in shown
    assert int(shown.split("searched for ")[1].split()[0]) > 40
    assert not any(word.casefold() in shown.casefold() for word in WORDS)


def test_the_copy_keeps_what_research_needs(made: Path) -> None:
    files = [dcmread(file) for file in sorted((made / "copy").rglob("*.dcm"))]
    planted = [file for file in files if file.get("SeriesDescription", "").startswith("T2")]
    assert planted
    for file in planted:
        assert file.SeriesDescription == "T2 ax"
        assert file.ProtocolName == "Abdomen 3mm"
        assert file.PatientWeight == 77
        assert file.DeviceSerialNumber == "SN-1"
        assert file.get_private_item(0x0019, 0x0C, "SIEMENS MR HEADER").value == 1000
        assert len([element for element in file if element.tag.is_private]) == 2
    assert len({file.StudyInstanceUID for file in planted}) == 1
    assert len({file.StudyDate for file in planted if file.StudyDate}) == 1


def test_every_planted_keyword_is_one_of_the_standard() -> None:
    assert EVERY_VR.keys() <= keyword_dict.keys()
