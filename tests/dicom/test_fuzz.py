"""Damaged DICOM files: each gives images or a typed refusal, soon and within bounded memory.

Mutations of real files and of frames that the test encodes: cut short, bits flipped, lengths and counts overwritten,
headers of one file put before the pixels of another, elements given foreign values. The run of the tests is short; a
longer one, which prints its counts, is

    MEDVIT_FUZZ=5000 MEDVIT_FUZZ_SEED=1 python -m pytest -s tests/dicom/test_fuzz.py
"""

from __future__ import annotations

import io
import os
import random
import resource
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pydicom.data
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from medvit import readers
from medvit.errors import DataError
from medvit.files.limits import allowing
from medvit.records import Item

ROUNDS = int(os.environ.get("MEDVIT_FUZZ", "300"))
SEED = int(os.environ.get("MEDVIT_FUZZ_SEED", "0"))
KEPT = Path(os.environ["MEDVIT_FUZZ_KEEP"]) if "MEDVIT_FUZZ_KEEP" in os.environ else None
"""File with the last mutation, in case it kills the process."""
LARGEST_SEED_BYTES = 120_000
LONGEST_S = 10.0
"""One mutation, on a machine that does other work too; most take milliseconds."""
MOST_MEMORY = 700 * 2**20
"""Growth of the process over all mutations: each may try the 64 MiB that are allowed to any file, a few times over."""

BOUNDED = settings(
    max_examples=max(60, ROUNDS // 10), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

COUNTS = (0, 1, 2, 3, 7, 8, 12, 16, 32, 255, 256, 0x7FFF, 0xEA60, 0xFFFF)
PYDICOM = Path(pydicom.data.__file__).parent / "test_files"


def outcome(files: list[Path]) -> str:
    """The outcome for some files, in a word; anything but images and typed refusals is raised as an error."""
    words = []
    for found in readers.find(files):
        if isinstance(found, Item):
            words.append(outcome_of_reading(found))
        else:
            words.append("memory" if "memory" in found.reason else found.code)
    assert words
    assert not {"memory", "empty"} & set(words)
    return words[0]


def outcome_of_reading(item: Item) -> str:
    try:
        return "read" if readers.read(item).pixels.size else "empty"
    except DataError as error:
        return "memory" if "memory" in str(error) else error.code


def cut(content: bytearray, source: random.Random) -> None:
    del content[source.randrange(len(content)) :]


def flip(content: bytearray, source: random.Random) -> None:
    end = len(content) if source.random() < 0.4 else min(len(content), 3000)
    for _ in range(source.choice((1, 1, 2, 8, 32))):
        content[source.randrange(end)] ^= 1 << source.randrange(8)


def overwrite_count(content: bytearray, source: random.Random) -> None:
    """Gives an element of group 0028 another number, or another length."""
    places = [n for n in range(len(content) - 12) if content[n : n + 2] == b"\x28\x00"]
    for place in source.sample(places, min(len(places), source.choice((1, 2)))):
        offset = source.choice((4, 6, 8, 8, 8))
        content[place + offset : place + offset + 2] = source.choice(COUNTS).to_bytes(2, "little")


def overwrite_length(content: bytearray, source: random.Random) -> None:
    place = source.randrange(min(len(content), 4000))
    content[place : place + 4] = source.choice((b"\xff\xff\xff\xff", b"\xf0\xff\xff\x7f", b"\0\0\0\0", b"\0\0\xff\0"))


def repeat(content: bytearray, source: random.Random) -> None:
    start = source.randrange(len(content))
    content[start:start] = content[start : start + source.choice((1, 2, 64, 1000))]


def drop(content: bytearray, source: random.Random) -> None:
    start = source.randrange(len(content))
    del content[start : start + source.choice((1, 2, 8, 64, 1000))]


MUTATIONS = (cut, flip, flip, overwrite_count, overwrite_count, overwrite_length, repeat, drop)


def recombined(one: bytes, other: bytes, source: random.Random) -> bytearray:
    """The header of one file, with elements of another in it or its pixels behind it."""
    first, second = (pydicom.dcmread(io.BytesIO(content), force=True) for content in (one, other))
    for element in source.sample(list(second), min(len(second), source.choice((1, 3, 10, 400)))):
        if source.random() < 0.7 or element.tag.group in (0x0028, 0x7FE0):
            first[element.tag] = element
    if source.random() < 0.3:
        first.file_meta = second.file_meta
    stream = io.BytesIO()
    try:
        pydicom.dcmwrite(stream, first, enforce_file_format=False)
    except Exception:  # a data set that pydicom cannot write is not a file
        return bytearray(one)
    return bytearray(stream.getvalue())


@pytest.fixture(scope="module")
def small_files(request) -> list[bytes]:
    """Small real files, including those next to the project if present."""
    files = sorted(PYDICOM.rglob("*.dcm"))
    shared = Path(__file__).parents[3] / "shared" / "data" / "dicom-odd"
    files += sorted(shared.rglob("*.dcm")) if shared.is_dir() else []
    return [file.read_bytes() for file in files if 0 < file.stat().st_size <= LARGEST_SEED_BYTES]


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_mutations_of_real_files_give_images_or_typed_refusals(small_files, tmp_path: Path):
    source = random.Random(SEED)
    for content in small_files:  # decoders are loaded before memory is measured
        path = tmp_path / "seed.dcm"
        path.write_bytes(content)
        outcome([path])
    before, slowest, counts = peak_bytes(), 0.0, Counter()
    for number in range(ROUNDS):
        content = bytearray(source.choice(small_files))
        if source.random() < 0.25:
            content = recombined(bytes(content), source.choice(small_files), source)
        else:
            for _ in range(source.choice((1, 1, 2))):
                source.choice(MUTATIONS)(content, source)
        path = KEPT / "mutated.dcm" if KEPT else tmp_path / "mutated.dcm"
        path.write_bytes(content)
        start = time.perf_counter()
        try:
            counts[outcome([path])] += 1
        except Exception as error:
            raise AssertionError(f"mutation {number} of seed {SEED}, the last file written") from error
        taken = time.perf_counter() - start
        slowest = max(slowest, taken)
        assert taken < LONGEST_S, number
    grown = peak_bytes() - before
    print(f"{dict(counts)}, slowest {slowest:.2f} s, grown by {grown / 2**20:.0f} MiB")  # noqa: T201 (the counts of a run by hand)
    assert grown < MOST_MEMORY
    assert sum(counts.values()) == ROUNDS
    assert counts["read"] > 0 < counts["unreadable"]


def written(dataset: pydicom.Dataset) -> bytes:
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, dataset, implicit_vr=False, little_endian=True)
    return stream.getvalue()


@pytest.fixture
def plain(write_slice) -> pydicom.Dataset:
    """A slice of 8 x 8 pixels."""
    return pydicom.dcmread(write_slice(np.arange(64, dtype=np.uint16).reshape(8, 8), name="plain.dcm"))


def peak_while(work: Callable[[], object]) -> int:
    """Bytes that Python and NumPy asked for at most, given out or not."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("frames", [1, 10_000])
def test_a_header_that_claims_gigapixels_allocates_none_of_them(plain, tmp_path: Path, syntax, frames):
    plain.Rows = plain.Columns = 60_000
    plain.NumberOfFrames = frames
    plain.file_meta.TransferSyntaxUID = syntax
    if syntax.is_compressed:
        plain.PixelData = encapsulate([bytes(100)])
        plain["PixelData"].VR = "OB"
    (tmp_path / "huge.dcm").write_bytes(written(plain))
    outcome([tmp_path / "huge.dcm"])
    found: list[str] = []
    assert peak_while(lambda: found.append(outcome([tmp_path / "huge.dcm"]))) < 2 * 2**20
    assert found == ["unreadable"]


def test_a_length_beyond_the_end_of_the_file_allocates_nothing(plain, tmp_path: Path):
    content = written(plain)
    place = content.index(b"\x10\0\x10\0PN")
    path = tmp_path / "long.dcm"
    path.write_bytes(content[:place] + b"\x10\0\x10\0UT\0\0\xf0\xff\xff\xff" + content[place + 8 :])
    outcome([path])
    assert peak_while(lambda: outcome([path])) < 2 * 2**20


def test_a_small_file_that_inflates_without_end_is_refused(plain, tmp_path: Path):
    plain.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    content = written(plain)
    start = content.index(b"1.2.840.10008.1.2.1.99") + 22  # the last of the file meta information here
    plain_bytes = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content[start:])
    packer = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    packed = [packer.compress(plain_bytes + b"\xfc\xff\xfc\xffOB\0\0\0\0\0\x60")]
    packed += [packer.compress(bytes(2**24)) for _ in range(7)]
    (tmp_path / "bomb.dcm").write_bytes(content[:start] + b"".join(packed) + packer.flush())
    with allowing(0.1):
        (found,) = readers.find([tmp_path / "bomb.dcm"])
    assert "above the limit of 0.1 GiB; raise max_volume_gib" in found.reason


@BOUNDED
@given(data=st.data())
def test_any_numbers_in_the_image_pixel_module_give_an_image_or_a_refusal(plain, tmp_path: Path, data):
    for keyword in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit"):
        if data.draw(st.booleans(), keyword):
            setattr(plain, keyword, data.draw(st.one_of(st.sampled_from(COUNTS), st.integers(0, 65535)), keyword))
    plain.PixelRepresentation = data.draw(st.integers(0, 3))
    plain.PlanarConfiguration = data.draw(st.integers(0, 2))
    colors = ("MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422", "PALETTE COLOR", "ARGB", "", "x" * 16)
    plain.PhotometricInterpretation = data.draw(st.sampled_from(colors))
    plain.NumberOfFrames = data.draw(st.one_of(st.sampled_from((1, 2, 10_000, 2**31 - 1)), st.integers(-2, 9)))
    plain.PixelData = data.draw(st.binary(max_size=200).map(lambda content: content + bytes(len(content) % 2)))
    (tmp_path / "any.dcm").write_bytes(written(plain))
    outcome([tmp_path / "any.dcm"])


@BOUNDED
@given(content=st.binary(max_size=300), name=st.sampled_from(("a.dcm", "a.nii", "a.nii.gz", "a.npz", "a.nrrd")))
def test_any_bytes_under_any_name_give_an_image_or_a_refusal(tmp_path: Path, content, name):
    (tmp_path / name).write_bytes(content or b"x")
    outcome([tmp_path / name])
    (tmp_path / name).unlink()


@pytest.fixture
def other_formats(tmp_path: Path) -> list[tuple[str, bytes]]:
    """A small NIfTI, plain and packed, a small .npz and a small .nrrd."""
    voxels = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    for name in ("a.nii", "a.nii.gz"):
        nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 2.0, 3.0, 1.0])), tmp_path / name)
    np.savez(tmp_path / "a.npz", train_images=voxels.astype(np.uint8), train_labels=np.zeros((3, 1), np.uint8))
    header = "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 3 4 5\nendian: little\n"
    header += "space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\nencoding: raw\n\n"
    (tmp_path / "a.nrrd").write_bytes(header.encode() + voxels.tobytes("F"))
    return [(name, (tmp_path / name).read_bytes()) for name in ("a.nii", "a.nii.gz", "a.npz", "a.nrrd")]


def test_mutations_of_other_formats_give_images_or_typed_refusals(other_formats, tmp_path: Path):
    source, counts = random.Random(SEED), Counter()
    mutations = [mutation for mutation in MUTATIONS if mutation is not overwrite_count]
    for name, content in other_formats:
        assert outcome([tmp_path / name]) == "read"
        for _ in range(max(50, ROUNDS // 10)):
            mutated = bytearray(content)
            source.choice(mutations)(mutated, source)
            path = tmp_path / f"mutated-{name}"
            path.write_bytes(mutated or b"x")
            start = time.perf_counter()
            counts[outcome([path])] += 1
            assert time.perf_counter() - start < LONGEST_S
    print(dict(counts))  # noqa: T201 (as above)
    assert counts["read"] > 0 < counts["unreadable"]


@pytest.mark.parametrize("shape", [(2**62, 0, 4), (2**40, 2, 2), (-3, 4, 4), (10**9, 0, 0)])
def test_an_npz_that_claims_images_without_end_is_refused(tmp_path: Path, shape):
    np.savez(tmp_path / "a.npz", train_images=np.zeros((2, 3, 3), np.uint8))
    content = (tmp_path / "a.npz").read_bytes()
    claimed = f"{shape}".encode()
    header = content.index(b"(2, 3, 3), }")
    damaged = bytearray(content)
    damaged[header : header + 12 + len(claimed) - 9] = claimed + b", }"
    (tmp_path / "a.npz").write_bytes(damaged)
    assert outcome([tmp_path / "a.npz"]) != "read"
