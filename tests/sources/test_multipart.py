from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvit.sources.failures import CutShortError
from medvit.sources.multipart import boundary_of, split

BOUNDARY = b"b0undary"
# Content that looks like boundaries, line breaks and the end, as unlucky pixels do.
PIECES = st.sampled_from([b"\r\n", b"--", b"b0undary", b"b0und", b"\r\n--b0undar", b"pixels", b"\0\xff", b"\r", b"-"])
CONTENT = st.lists(PIECES, max_size=12).map(b"".join).filter(lambda c: b"\r\n--b0undary" not in b"\r\n" + c)


class Parts:
    def __init__(self) -> None:
        self.begun: list[bytearray] = []
        self.whole: list[bytes] = []

    def begin(self) -> None:
        self.begun.append(bytearray())

    def write(self, content: bytes) -> None:
        self.begun[-1] += content

    def end(self) -> None:
        self.whole.append(bytes(self.begun[-1]))


def body_of(contents: list[bytes]) -> bytes:
    parts = (b"--b0undary\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n" for content in contents)
    return b"".join(parts) + b"--b0undary--\r\n"


def in_chunks(body: bytes, size: int) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


@given(contents=st.lists(CONTENT, min_size=1, max_size=4), size=st.integers(1, 40))
def test_parts_come_back_whatever_the_chunks(contents: list[bytes], size: int) -> None:
    parts = Parts()
    split(in_chunks(body_of(contents), size), BOUNDARY, parts)
    assert parts.whole == contents


@given(contents=st.lists(CONTENT, min_size=1, max_size=3), size=st.integers(1, 40), data=st.data())
def test_a_body_cut_anywhere_gives_no_part_that_is_not_whole(
    contents: list[bytes], size: int, data: st.DataObject
) -> None:
    body = body_of(contents)
    cut = data.draw(st.integers(0, len(body) - len(b"--\r\n") - 1))
    parts = Parts()
    with pytest.raises(CutShortError):
        split(in_chunks(body[:cut], size), BOUNDARY, parts)
    assert parts.whole == contents[: len(parts.whole)]


def test_white_space_after_a_boundary_and_parts_without_headers_are_allowed() -> None:
    parts = Parts()
    split([b"preamble\r\n--b0undary \t\r\n\r\none\r\n--b0undary\r\nA: b\r\n\r\ntwo\r\n--b0undary--"], BOUNDARY, parts)
    assert parts.whole == [b"one", b"two"]


def test_endless_headers_are_refused() -> None:
    with pytest.raises(CutShortError, match="do not end"):
        split([b"--b0undary\r\n", *[b"X" * 2**12] * 20], BOUNDARY, Parts())


def test_an_endless_preamble_is_refused_and_an_endless_epilogue_not_read() -> None:
    with pytest.raises(CutShortError, match="has no boundary"):
        split(itertools.repeat(b"X" * 2**12), BOUNDARY, Parts())
    parts = Parts()
    split(itertools.chain([body_of([b"one"])], itertools.repeat(b"X")), BOUNDARY, parts)
    assert parts.whole == [b"one"]


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ('multipart/related; type="application/dicom"; boundary=abc', b"abc"),
        ('Multipart/Related; boundary="a b=c"; type="application/dicom"', b"a b=c"),
        ("application/dicom", None),
        ("multipart/related", None),
        ("", None),
    ],
)
def test_the_boundary_is_read_from_the_content_type(content_type: str, boundary: bytes | None) -> None:
    assert boundary_of(content_type) == boundary
