"""Texts outside of pixels: readers yield all texts of their format, documents all contents, except technical words."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from nibabel.nifti1 import Nifti1DicomExtension, Nifti1Extension
from PIL import Image, TiffImagePlugin
from PIL.PngImagePlugin import PngInfo
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate

from medvit import phantoms, readers
from medvit.audit.needles import IdentifyingValues, ReadValues
from medvit.deidentification.identifiers import IdentifyingValue
from medvit.deidentification.profile import Profile

NAME, NUMBER, DAY = "Zebedeeson", "QX7731904", "19630412"
GRAY = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
XMP = f'<x:xmpmeta xmlns:dc="http://purl.org/dc"><dc:creator>{NAME} &amp; Co</dc:creator></x:xmpmeta>'.encode()


def seen(file: Path) -> IdentifyingValues:
    return ReadValues(Profile(frozenset()))(file)


def identifying_values(file: Path) -> list[IdentifyingValue]:
    return list(seen(file).values)


def nifti_with(**fields: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        image = nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4))
        for field, content in fields.items():
            image.header[field] = content
        nib.save(image, folder / "a.nii.gz")
        return folder / "a.nii.gz"

    return write


def nifti_extended(folder: Path) -> Path:
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4))
    image.header.extensions.append(Nifti1Extension("comment", f"of {NAME}".encode()))
    nib.save(image, folder / "a.nii")
    return folder / "a.nii"


def nifti_with_dicom(folder: Path) -> Path:
    header = Dataset()
    header.PatientName, header.Modality = f"{NAME}^Ann", "MR"
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4))
    image.header.extensions.append(Nifti1DicomExtension(2, header))
    nib.save(image, folder / "a.nii")
    return folder / "a.nii"


def jpeg_with_exif(tag: int, value: object, directory: int = 0) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        exif = Image.Exif()
        (exif.get_ifd(directory) if directory else exif)[tag] = value
        GRAY.save(folder / "a.jpg", exif=exif)
        return folder / "a.jpg"

    return write


def jpeg_with_xmp(folder: Path) -> Path:
    GRAY.save(folder / "a.jpg", xmp=XMP)
    return folder / "a.jpg"


def jpeg_with_comment(folder: Path) -> Path:
    GRAY.save(folder / "a.jpg", comment=f"of {NAME}".encode())
    return folder / "a.jpg"


def tiff_with_iptc(folder: Path) -> Path:
    caption = f"of {NAME}".encode()
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[33723] = b"\x1c\x02\x78" + len(caption).to_bytes(2, "big") + caption
    tags.tagtype[33723] = 7
    GRAY.save(folder / "a.tif", tiffinfo=tags)
    return folder / "a.tif"


def png_with(key: str, text: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        notes = PngInfo()
        notes.add_itxt(key, text)
        GRAY.save(folder / "a.png", pnginfo=notes)
        return folder / "a.png"

    return write


def png_with_text_behind_the_pixels(folder: Path) -> Path:
    content = png_with("Comment", f"of {NAME}")(folder).read_bytes()
    begin = content.index(b"iTXt") - 4
    end = begin + 12 + int.from_bytes(content[begin : begin + 4], "big")
    at_end = content.index(b"IEND") - 4
    moved = content[:begin] + content[end:at_end] + content[begin:end] + content[at_end:]
    (folder / "a.png").write_bytes(moved)
    return folder / "a.png"


def text_file(name: str, content: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text(content)
        return folder / name

    return write


def jpeg_with_segment(folder: Path) -> Path:
    GRAY.save(folder / "a.jpg")
    content, text = (folder / "a.jpg").read_bytes(), f"of {NAME}".encode()
    segment = b"\xff\xe5" + (len(text) + 2).to_bytes(2, "big") + text
    (folder / "a.jpg").write_bytes(content[:2] + segment + content[2:])
    return folder / "a.jpg"


def tiff_with_two_pages(folder: Path) -> Path:
    pixels = np.zeros((8, 8), np.uint8)
    with tifffile.TiffWriter(folder / "a.tif") as writer:
        writer.write(pixels)
        writer.write(pixels, description=f"of {NAME}")
    return folder / "a.tif"


def npz_with_names(folder: Path) -> Path:
    np.savez(folder / "a.npz", train_images=np.zeros((1, 4, 4), np.uint8), who=np.array([NAME]))
    return folder / "a.npz"


def vol_with(place: int, content: bytes = NAME.encode()) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        head = b"HSF-OCT-103".ljust(2048, b"\0")
        (folder / "a.vol").write_bytes(head[:place] + content + head[place + len(content) :])
        return folder / "a.vol"

    return write


def workbook(folder: Path) -> Path:
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    row = '<row><c r="B{0}" t="s"><v>{1}</v></c><c r="C{0}"><v>{2}</v></c></row>'
    rows = row.format(1, 0, "").replace("<v></v>", "").replace('r="C1"', 'r="C1" t="inlineStr"')
    rows = rows.replace("</c></row>", "<is><t>Geburtsdatum</t></is></c></row>") + row.format(2, 1, 23113)
    with zipfile.ZipFile(folder / "a.xlsx", "w") as archive:
        archive.writestr("xl/sharedStrings.xml", f"<sst {space}><si><t>Name</t></si><si><t>{NAME}</t></si></sst>")
        archive.writestr("xl/worksheets/sheet1.xml", f"<worksheet {space}><sheetData>{rows}</sheetData></worksheet>")
    return folder / "a.xlsx"


def dicom_with_comment(folder: Path) -> Path:
    phantoms.write_ct_studies(folder, 1)
    file = next(folder.rglob("*.dcm"))
    dataset, comment = dcmread(file), f"of {NAME}".encode()
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.50"
    text = b"\xff\xd8\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + b"\xff\xd9"
    dataset.PixelData = encapsulate([text])
    dataset.save_as(folder / "a.dcm")
    return folder / "a.dcm"


@pytest.mark.parametrize(
    "write",
    [
        nifti_with(descrip=f"of {NAME}".encode()),
        nifti_with(intent_name=f"of {NAME}".encode()),
        nifti_with(aux_file=f"{NAME}.txt".encode()),
        nifti_with(db_name=NAME.encode()),
        nifti_extended,
        nifti_with_dicom,
        jpeg_with_exif(0x010E, f"of {NAME}"),
        jpeg_with_exif(0x013B, NAME),
        jpeg_with_exif(0x9C9C, f"of {NAME}\0".encode("utf-16-le")),
        jpeg_with_exif(0x9286, b"ASCII\0\0\0" + NAME.encode(), 0x8769),
        jpeg_with_exif(0x9286, b"UNICODE\0" + NAME.encode("utf-16-le"), 0x8769),
        jpeg_with_exif(0xA430, NAME, 0x8769),
        jpeg_with_exif(0x001C, b"ASCII\0\0\0" + NAME.encode(), 0x8825),
        jpeg_with_xmp,
        jpeg_with_comment,
        tiff_with_iptc,
        png_with("Comment", f"of {NAME}"),
        png_with("XML:com.adobe.xmp", XMP.decode()),
        png_with("Raw profile type iptc", f"\niptc\n {len(NAME)}\n{NAME.encode().hex()}\n"),
        png_with_text_behind_the_pixels,
        text_file("a.mha", f"ObjectType = Image\nComment = of {NAME}\nElementDataFile = LOCAL\n"),
        text_file("a.nhdr", f"NRRD0004\n# of {NAME}\ntype: short\n"),
        text_file("a.nrrd", f"NRRD0004\ntype: short\npatient:={NAME}\n\n"),
        text_file("a.csv", f"file,patient_id\na.png,{NAME}\n"),
        text_file("a.tsv", f"file\tBefund\na.png\t{NAME}, bekannt\n"),
        text_file("a.txt", f"Report\nSeen: {NAME}\n"),
        text_file("a.xml", f"<report><who>{NAME}</who></report>"),
        jpeg_with_segment,
        tiff_with_two_pages,
        npz_with_names,
        vol_with(140),
        vol_with(176),
        vol_with(300),
        workbook,
        dicom_with_comment,
        text_file("a.json", json.dumps({"PatientName": f"{NAME}^Ann", "EchoTime": 0.03})),
        text_file("a.json", json.dumps([{"series": {"StationName": NAME}}])),
        text_file("a.json", json.dumps({"patient_name": NAME})),
    ],
)
def test_a_name_beside_the_pixels_is_told_with_its_place(write: Callable[[Path], Path], tmp_path: Path) -> None:
    found = [value for value in identifying_values(write(tmp_path)) if NAME in value.text]
    assert found
    assert all(value.element and NAME not in value.element for value in found)


@pytest.mark.parametrize(
    "write",
    [
        jpeg_with_exif(0x9003, "1963:04:12 10:11:12", 0x8769),
        jpeg_with_exif(0x0132, "1963:04:12 10:11:12"),
        png_with("XML:com.adobe.xmp", "<x><d>1963-04-12T10:11:12</d></x>"),
        text_file("a.json", json.dumps({"AcquisitionDateTime": "1963-04-12T10:11:12.5"})),
        text_file("a.csv", "Untersuchung\n12.04.1963\n"),
        vol_with(164, struct.pack("<d", 23113.0)),
        vol_with(200, struct.pack("<d", 23113.4)),
        vol_with(88, struct.pack("<Q", (date(1963, 4, 12) - date(1601, 1, 1)).days * 864 * 10**9)),
        workbook,
    ],
)
def test_a_date_beside_the_pixels_is_told_as_a_date(write: Callable[[Path], Path], tmp_path: Path) -> None:
    assert (DAY, "DA") in {(value.text, value.vr) for value in identifying_values(write(tmp_path))}


@pytest.mark.parametrize(
    "write",
    [
        nifti_with(),
        jpeg_with_exif(0x010F, "Topcon Corporation"),
        jpeg_with_exif(0x0131, "Adobe Photoshop"),
        png_with("Software", "Matplotlib version 3"),
        text_file("a.mha", "ObjectType = Image\nNDims = 3\nElementSpacing = 1 1 1\nElementDataFile = LOCAL\nRing Ann"),
        text_file("a.nrrd", "NRRD0004\ntype: short\nspace directions: (1,0,0)\n\nRing=Ann"),
        text_file("a.json", json.dumps({"Manufacturer": "Siemens", "AcquisitionTime": "10:11:12", "EchoTime": 0.03})),
        text_file("LICENSE.txt", f"Copyright {NAME}"),
        text_file(".DS_Store", "\0\0"),
    ],
)
def test_what_names_nobody_is_not_told(write: Callable[[Path], Path], tmp_path: Path) -> None:
    assert [value for value in identifying_values(write(tmp_path)) if value.text] == []


def test_a_damaged_picture_tells_what_can_be_read(tmp_path: Path) -> None:
    file = jpeg_with_comment(tmp_path)
    file.write_bytes(file.read_bytes()[:-4])
    assert any(NAME in value.text for value in identifying_values(file))


def test_every_reader_gives_texts() -> None:
    for reader in readers.readers():
        assert isinstance(reader, readers.Reader)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.pdf", b"%PDF-1.7 \xff\0"),
        ("a.bin", b"\0\1\2"),
        ("a.nii", b"no nifti" * 99),
        ("a.json", b"no json"),
        ("a.vol", b"HSF-OCT-103"),
        ("a.svs", b"no slide"),
        ("a.dcm", b"no dicom" * 99),
        ("a.xlsx", b"no workbook"),
    ],
)
def test_what_nobody_can_read_is_said(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert seen(tmp_path / name).unread


def test_a_slide_gives_what_its_maker_writes(shared_data: Path) -> None:
    found = seen(shared_data / "wsi" / "cmu-1-small-region.svs")
    assert any("slide aperio.User" in value.element and not value.is_descriptor for value in found.values)
    assert any(value.vr == "DA" for value in found.values)
    assert not found.unread


def test_data_in_the_folder_of_a_slide_are_its_own(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "Data0000.dat").write_bytes(b"\0\1")
    assert seen(tmp_path / "a" / "Data0000.dat").unread
    (tmp_path / "a.mrxs").write_bytes(b"\xff\xd8")
    assert not seen(tmp_path / "a" / "Data0000.dat").unread


def test_an_mrxs_gives_its_index(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    index = f"[GENERAL]\nSLIDE_ID = {NUMBER}\nSLIDE_NAME={NAME}\nSLIDE_CREATIONDATETIME = 12/04/1963 10:11:12\n"
    (tmp_path / "a" / "Slidedat.ini").write_text(index + "IMAGENUMBER_X = 12\n", encoding="utf-8-sig")
    (tmp_path / "a.mrxs").write_bytes(b"\xff\xd8")
    found = seen(tmp_path / "a.mrxs")
    strong = {value.text for value in found.values if not value.is_descriptor}
    assert {NUMBER, NAME, DAY} <= strong
    assert found.unread  # its pictures are not there
