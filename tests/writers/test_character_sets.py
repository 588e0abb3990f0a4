from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset

from medvit.errors import UnsupportedError
from medvit.inference.study_job import StudyJob
from medvit.models.image import AppliesTo
from medvit.readers import find, read
from medvit.records import Item
from medvit.types import Image, Prediction
from medvit.writers import Study
from medvit.writers.dicom_parts.source_instances import read_sources
from medvit.writers.dicom_seg import write_seg
from tests.dicom.multiframe import counted, frame_group, write_multiframe
from tests.plugins.mr_series import SeriesMaker
from tests.writers.test_dicom_seg import MAKER, asymmetric, context_of, errors_of, mask_of
from tests.writers.test_dicom_seg_multiframe import PlainNames

JAPANESE = "Yamada^Tarou=山田^太郎=やまだ^たろう"
KOREAN = "Hong^Gildong=洪^吉洞=홍^길동"
LATIN = "Müller^Jörg"


def rewrite(item: Item, *, declared: Sequence[str] | str | None, encoded_as: Sequence[str] | str, name: str) -> None:
    """Gives every file of a series a name in some encoding, on top and within a sequence, under a declared one."""
    with pydicom.config.disable_value_validation():
        for path in item.files:
            dataset = pydicom.dcmread(path)
            dataset.SpecificCharacterSet = encoded_as if isinstance(encoded_as, str) else list(encoded_as)
            dataset.PatientName = name
            other = Dataset()
            other.PatientID, other.TypeOfPatientID = "X", "TEXT"
            other.IssuerOfPatientID = name.partition("=")[0]
            dataset.OtherPatientIDsSequence = [other]
            dataset.save_as(path)
            path.write_bytes(declaring(path.read_bytes(), declared))


def declaring(content: bytes, declared: Sequence[str] | str | None) -> bytes:
    """A file in Explicit VR Little Endian whose texts keep their bytes under another (0008,0005)."""
    start = content.index(b"\x08\x00\x05\x00CS")
    end = start + 8 + int.from_bytes(content[start + 6 : start + 8], "little")
    if declared is None:
        return content[:start] + content[end:]
    value = (declared if isinstance(declared, str) else "\\".join(declared)).encode()
    value += b" " * (len(value) % 2)
    return content[: start + 6] + len(value).to_bytes(2, "little") + value + content[end:]


@pytest.mark.parametrize(
    ("declared", "encoded_as", "name", "written"),
    [
        (["", "ISO 2022 IR 87"], ["", "ISO 2022 IR 87"], JAPANESE, "ISO_IR 192"),
        (["", "ISO 2022 IR 149"], ["", "ISO 2022 IR 149"], KOREAN, "ISO_IR 192"),
        ("GB18030", "GB18030", "Wang^XiaoDong=王^小东", "GB18030"),
        ("ISO_IR 100", "ISO_IR 100", LATIN, "ISO_IR 100"),
        ("ISO IR 100", "ISO_IR 100", LATIN, "ISO_IR 100"),
        ("ISO-IR 100", "ISO_IR 100", LATIN, "ISO_IR 100"),
        ("iso8859-1", "ISO_IR 100", LATIN, "ISO_IR 100"),
        ("UTF-8", "ISO_IR 192", JAPANESE, "ISO_IR 192"),
        (["ISO 2022 IR 6", "ISO_2022_IR_87"], ["", "ISO 2022 IR 87"], JAPANESE, "ISO_IR 192"),
        ("ISO 2022 IR 100", "ISO_IR 100", LATIN, "ISO_IR 192"),
        ("", "ISO_IR 6", "Doe^Jane", None),
        (None, "ISO_IR 6", "Doe^Jane", None),
        ("nonsense", "ISO_IR 6", "Doe^Jane", "ISO_IR 192"),
    ],
)
def test_a_segmentation_has_the_name_of_its_source_whatever_its_character_set(
    make_series: SeriesMaker,
    tmp_path: Path,
    declared: Sequence[str] | str | None,
    encoded_as: Sequence[str] | str,
    name: str,
    written: str | None,
) -> None:
    item, image = make_series()
    rewrite(item, declared=declared, encoded_as=encoded_as, name=name)
    sources = read_sources(item)
    write_seg(tmp_path / "seg.dcm", context_of(item, asymmetric(image)), sources)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert seg.get("SpecificCharacterSet") == written
    assert str(seg.PatientName) == name
    assert seg.OtherPatientIDsSequence[0].IssuerOfPatientID == name.partition("=")[0]
    assert errors_of(tmp_path / "seg.dcm") == []
    assert sources.notes == ()


@pytest.mark.parametrize(("encoded_as", "read_as"), [("ISO_IR 100", "Latin-1"), ("ISO_IR 192", "UTF-8")])
def test_texts_of_no_declared_character_set_are_read_and_that_is_reported(
    make_series: SeriesMaker, tmp_path: Path, encoded_as: str, read_as: str
) -> None:
    item, image = make_series()
    rewrite(item, declared="ISO_IR 6", encoded_as=encoded_as, name=LATIN)
    sources = read_sources(item)
    write_seg(tmp_path / "seg.dcm", context_of(item, asymmetric(image)), sources)
    assert str(pydicom.dcmread(tmp_path / "seg.dcm").PatientName) == LATIN
    assert sources.notes == (f"the source declares no character set for its texts, which were read as {read_as}",)


@pytest.mark.parametrize("declared", ["ISO_IR 192", "nonsense"])
def test_a_name_that_cannot_be_decoded_gets_no_segmentation_under_another(
    make_series: SeriesMaker, declared: str
) -> None:
    item, _ = make_series()
    rewrite(item, declared=declared, encoded_as="ISO_IR 100", name=LATIN)
    with pytest.raises(UnsupportedError, match=rf"PatientName contains bytes outside .* \({declared}\)"):
        read_sources(item)


def test_a_class_in_another_alphabet_than_the_source_keeps_its_name(make_series: SeriesMaker, tmp_path: Path) -> None:
    item, image = make_series()
    rewrite(item, declared="ISO_IR 100", encoded_as="ISO_IR 100", name=LATIN)
    prediction = Prediction(("background", "肝臓", "b", "c"), mask=asymmetric(image).mask, affine=image.affine)
    write_seg(tmp_path / "seg.dcm", context_of(item, prediction), read_sources(item))
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert str(seg.PatientName) == LATIN
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == ["肝臓", "b", "c"]


@pytest.mark.parametrize("jitter", [1e-7, 1e-5, 5e-4])
def test_an_orientation_rounded_differently_in_each_slice_still_gets_its_segmentation(
    make_series: SeriesMaker, tmp_path: Path, jitter: float
) -> None:
    item, _ = make_series()
    for number, path in enumerate(item.files):
        dataset = pydicom.dcmread(path)
        dataset.ImageOrientationPatient[1] = f"{jitter * (number % 2):.10g}"
        dataset.save_as(path)
    (found,) = find(list(item.files))
    assert isinstance(found, Item)
    image = read(found)
    prediction = asymmetric(image)
    write_seg(tmp_path / "seg.dcm", context_of(found, prediction), read_sources(found))
    assert np.array_equal(mask_of(tmp_path / "seg.dcm", image), prediction.mask)


def test_frames_that_each_say_the_orientation_they_share_get_their_segmentation(tmp_path: Path) -> None:
    tilted = {"ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]}
    measures = {"PixelSpacing": [0.5, 0.75], "SliceThickness": 1.0}
    groups = [
        frame_group((0.0, 0.0, float(k)), PlaneOrientationSequence=tilted, PixelMeasuresSequence=measures)
        for k in range(3)
    ]
    path = write_multiframe(tmp_path / "source.dcm", counted(3), groups)
    dataset = pydicom.dcmread(path)
    del dataset.SharedFunctionalGroupsSequence
    dataset.save_as(path)
    (item,) = find([path])
    assert isinstance(item, Item)
    image = read(item)
    mask = np.zeros(image.pixels.shape[1:], dtype=np.uint8)
    mask[1, 0, 2] = 1
    prediction = Prediction(("background", "a"), mask=mask, affine=image.affine)
    write_seg(tmp_path / "seg.dcm", context_of(item, prediction), read_sources(item))
    found = pydicom.dcmread(tmp_path / "seg.dcm")
    assert found.pixel_array.sum() == 1


def test_slices_of_two_frames_of_reference_get_no_segmentation(make_series: SeriesMaker) -> None:
    item, _ = make_series()
    dataset = pydicom.dcmread(item.files[0])
    dataset.FrameOfReferenceUID = "1.2.3"
    dataset.save_as(item.files[0])
    with pytest.raises(UnsupportedError, match="the slices have 2 different values of FrameOfReferenceUID"):
        read_sources(item)


def test_a_study_whose_segmentation_cannot_be_written_keeps_its_mask_and_volumes(
    make_series: SeriesMaker, tmp_path: Path
) -> None:
    item, _ = make_series()
    rewrite(item, declared="ISO_IR 192", encoded_as="ISO_IR 100", name=LATIN)
    (tmp_path / "out").mkdir()

    def predict(image: Image) -> Prediction:
        return asymmetric(image)

    job = StudyJob(predict, AppliesTo(kind="volume"), PlainNames(), MAKER)
    result = job(Study("s-1", (item,)), tmp_path / "out")
    assert result.status == "done"
    assert result.outputs == ("mask.nii.gz", "preview.png")
    assert result.reason.startswith("there is no DICOM segmentation: PatientName contains bytes")
    assert [finding.label for finding in result.findings] == list(asymmetric(read(item)).classes[1:])
