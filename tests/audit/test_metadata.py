"""Texts that stand beside pixels in files that are no DICOM: all are told, and technical words are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1DicomExtension, Nifti1Extension
from PIL import Image, TiffImagePlugin
from PIL.PngImagePlugin import PngInfo
from pydicom import Dataset

from medvit.audit.metadata import embedded
from medvit.deidentification.identifiers import IdentifyingValue

NAME, NUMBER, DAY = "Zebedeeson", "QX7731904", "19630412"
GRAY = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
XMP = f'<x:xmpmeta xmlns:dc="http://purl.org/dc"><dc:creator>{NAME} &amp; Co</dc:creator></x:xmpmeta>'.encode()


def told(file: Path) -> list[IdentifyingValue]:
    return list(embedded(file, file.read_bytes()[:512]))


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
        text_file("a.json", json.dumps({"PatientName": f"{NAME}^Ann", "EchoTime": 0.03})),
        text_file("a.json", json.dumps([{"series": {"StationName": NAME}}])),
        text_file("a.json", json.dumps({"patient_name": NAME})),
    ],
)
def test_a_name_beside_the_pixels_is_told_with_its_place(write: Callable[[Path], Path], tmp_path: Path) -> None:
    found = [value for value in told(write(tmp_path)) if NAME in value.text]
    assert found
    assert all(value.element and NAME not in value.element for value in found)


@pytest.mark.parametrize(
    "write",
    [
        jpeg_with_exif(0x9003, "1963:04:12 10:11:12", 0x8769),
        jpeg_with_exif(0x0132, "1963:04:12 10:11:12"),
        png_with("XML:com.adobe.xmp", "<x><d>1963-04-12T10:11:12</d></x>"),
        text_file("a.json", json.dumps({"AcquisitionDateTime": "1963-04-12T10:11:12.5"})),
    ],
)
def test_a_date_beside_the_pixels_is_told_as_a_date(write: Callable[[Path], Path], tmp_path: Path) -> None:
    assert (DAY, "DA") in {(value.text, value.vr) for value in told(write(tmp_path))}


@pytest.mark.parametrize(
    "write",
    [
        nifti_with(),
        jpeg_with_exif(0x010F, "Topcon Corporation"),
        jpeg_with_exif(0x0131, "Adobe Photoshop"),
        png_with("Software", "Matplotlib version 3"),
        text_file("a.mha", "ObjectType = Image\nNDims = 3\nElementSpacing = 1 1 1\nElementDataFile = LOCAL\nRing Ann"),
        text_file("a.nrrd", "NRRD0004\ntype: short\nspace directions: (1,0,0)\n\nRing=Ann"),
        text_file("a.csv", "grade\nSevere\n"),
        text_file("a.json", json.dumps({"Manufacturer": "Siemens", "AcquisitionTime": "10:11:12", "EchoTime": 0.03})),
        text_file("a.json", "no json"),
    ],
)
def test_what_names_nobody_is_not_told(write: Callable[[Path], Path], tmp_path: Path) -> None:
    assert [value for value in told(write(tmp_path)) if value.text] == []


def test_a_damaged_picture_tells_what_can_be_read(tmp_path: Path) -> None:
    file = jpeg_with_comment(tmp_path)
    file.write_bytes(file.read_bytes()[:-4])
    assert any(NAME in value.text for value in told(file))
