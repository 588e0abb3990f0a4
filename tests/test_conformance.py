"""The DICOM Conformance Statement names exactly what the code supports."""

from __future__ import annotations

import re
from pathlib import Path

from medvit.delivery import dicomweb, dimse
from medvit.dicom import decoders
from medvit.service import receiver
from medvit.sources import http
from medvit.sources.associations import OUT_OF_RESOURCES
from medvit.writers import writers

STATEMENT = (Path(__file__).parents[1] / "docs" / "conformance.md").read_text(encoding="utf-8")


def part(start: str) -> str:
    return STATEMENT.partition(f"<!-- {start} -->")[2].partition("<!-- end -->")[0]


def uids_in(text: str) -> set[str]:
    found = set(re.findall(r"1\.2\.840\.10008[.0-9]*[0-9]", text))
    for first, last in re.findall(r"(1\.2\.840\.10008[.0-9]*\.\d+) to 1\.2\.840\.10008[.0-9]*\.(\d+)", text):
        stem, _, number = first.rpartition(".")
        found |= {f"{stem}.{one}" for one in range(int(number), int(last) + 1)}
    return found


def test_the_transfer_syntaxes_are_those_of_the_decoders():
    known = {*decoders.NATIVE, decoders.ENCAPSULATED, decoders.FRAME_DEFLATED, decoders.RLE}
    known |= {*decoders.JPEG, *decoders.JPEG_LS, *decoders.JPEG_2000, *decoders.JPEG_XL}
    assert uids_in(part("transfer syntaxes")) == known


def test_the_created_objects_are_those_of_the_dicom_writers():
    named = set(re.findall(r"`(dicom_\w+)`", part("created")))
    assert named == {one.name for one in writers() if one.name.startswith("dicom")}


def test_the_statuses_are_those_of_the_code():
    for code in (*dimse.WARNINGS, *dimse.REFUSALS, *OUT_OF_RESOURCES[:1]):
        pattern = f"0x{code:04X}"
        is_in_range = code in range(0x0210, 0x0213)
        assert pattern in STATEMENT or is_in_range, pattern
    for status in (*http.PASSING, *dicomweb.REFUSING, dicomweb.CONFLICT):
        assert str(status) in STATEMENT, status


def test_the_statuses_of_the_service_are_those_of_its_receiver():
    known = (receiver.SUCCESS, receiver.PROCESSING_FAILURE, receiver.CLASS_NOT_SUPPORTED, receiver.OUT_OF_RESOURCES)
    known += (receiver.DATASET_MISMATCH, receiver.CANNOT_UNDERSTAND)
    assert re.findall(r"0x[0-9A-F]{4}", part("received statuses")) == [f"0x{code:04X}" for code in sorted(known)]
