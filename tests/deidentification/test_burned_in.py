"""Burned-in text is found, and excluded, masked or kept, never silently."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    MRImageStorage,
    RLELossless,
    UltrasoundImageStorage,
)

from medvit.dataset import quarantine
from medvit.dataset.manifest import Manifest
from medvit.dataset.samples import load
from medvit.deidentification.burned_in import BurnedInConfig, frames_in, to_mask
from medvit.deidentification.text_detector import blanked, find_lines, suspicion
from pipelines.ingest import IngestConfig, ingest

TEXT = "ZEBEDEE, QUENTIN  12/04/1963"
THRESHOLD = BurnedInConfig().threshold


def tissue(seed: int, size: int = 200) -> np.ndarray:
    """Speckle like that of ultrasound: noise, blurred, brighter in the middle, uint8."""
    noise = np.random.default_rng(seed).rayleigh(40, (size, size))
    picture = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
    smooth = np.array(picture.resize((size // 3, size // 3)).resize((size, size)))
    fade = np.hanning(size)
    return (smooth * np.outer(fade, fade) * 2).clip(0, 220).astype(np.uint8)


def write_on(pixels: np.ndarray, *, size: int = 12, at: tuple[int, int] = (4, 3), level: int = 255) -> np.ndarray:
    return write_words(pixels, TEXT, size=size, at=at, level=level)


def write_words(pixels: np.ndarray, text: str, *, size: int = 12, at: tuple[int, int], level: int) -> np.ndarray:
    picture = Image.fromarray(pixels)
    ImageDraw.Draw(picture).text(at, text, fill=level, font=ImageFont.load_default(size))
    return np.array(picture)


def write_ultrasound(path: Path, pixels: np.ndarray, **elements: str) -> None:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = UltrasoundImageStorage, f"1.2.3.{len(path.stem)}.{ord(path.stem[0])}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"{dataset.SOPInstanceUID}.1", f"{dataset.SOPInstanceUID}.2"
    dataset.PatientID, dataset.PatientName, dataset.Modality = f"ID-{path.stem}", "Zebedee^Quentin", "US"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    dataset.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PixelData = pixels.tobytes()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two ultrasound images without writing, and two with."""
    folder = tmp_path / "source"
    write_ultrasound(folder / "a.dcm", tissue(0))
    write_ultrasound(folder / "b.dcm", tissue(1), BurnedInAnnotation="NO")
    write_ultrasound(folder / "c.dcm", write_on(tissue(2)), BurnedInAnnotation="NO")
    write_ultrasound(folder / "d.dcm", np.repeat(write_on(tissue(3))[..., None], 3, axis=-1))
    return folder


def run(source: Path, **options: object) -> Manifest:
    folder = source.parent
    places = {"source": source, "dataset": folder / "out", "key": folder / "k", "deidentify": str(folder / "copy")}
    return ingest(IngestConfig.parse({**places, "name": "test", "tracking": {"enabled": False}, **options}))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [10, 14, 24])
@pytest.mark.parametrize("level", [255, 0])
def test_writing_is_told_from_tissue(seed: int, size: int, level: int) -> None:
    clean = tissue(seed, 256) // 2 + (0 if level else 120)
    written = write_on(clean, size=size, level=level)
    assert suspicion(find_lines(clean)) < THRESHOLD <= suspicion(find_lines(written))


def test_lines_lie_where_the_writing_is() -> None:
    written = write_on(tissue(0), at=(20, 150))
    lines = [line for line in find_lines(written) if line.score > 0.3]
    assert all(140 <= line.top <= line.bottom <= 175 for line in lines)
    assert min(line.left for line in lines) <= 25
    assert max(line.right for line in lines) >= 150


@pytest.mark.parametrize("level", [255, 120])
def test_what_stands_alone_beside_a_line_is_masked_with_it(level: int) -> None:
    ground = np.zeros((200, 240), np.uint8)
    ground[60:160, 100:220] = np.clip(tissue(0)[:100, :120] + 30, 0, 255)
    written = ground.copy()
    for text, at in (("QUENTIN ZEBEDEE", (4, 4)), ("M", (4, 19)), ("63", (40, 19)), ("S", (4, 34)), ("-1", (24, 34))):
        written = write_words(written, text, at=at, level=level)
    masked = blanked(written, to_mask([(written, find_lines(written))]), 0)
    np.testing.assert_array_equal(masked[:55], 0)
    np.testing.assert_array_equal(masked[60:], ground[60:])


def test_by_default_images_with_writing_are_left_out_and_listed(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        manifest = run(source)
    assert len(manifest) == 2
    assert [entry.code for entry in quarantine.read(manifest.folder)] == ["burned_in"] * 2
    assert "burned-in text in 2 images: 2 excluded" in caplog.text
    assert len(list((source.parent / "copy").rglob("*.dcm"))) == 2
    assert "burned_in" in (manifest.folder / "card.md").read_text(encoding="utf-8")


def test_masked_images_carry_no_writing_in_the_store_nor_in_the_copy(
    source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        manifest = run(source, taking={"burned_in": "mask"})
    assert len(manifest) == 4
    assert "2 masked" in caplog.text
    for row in manifest:
        pixels = load(manifest, row).pixels
        assert suspicion(find_lines(np.moveaxis(pixels, 0, -1).squeeze())) < THRESHOLD
    copies = [dcmread(file) for file in (source.parent / "copy").rglob("*.dcm")]
    masked = [copy for copy in copies if "blanked" in str(copy.DeidentificationMethod)]
    assert len(masked) == 2
    # One file declared NO, the other nothing.
    assert sorted((copy.get("BurnedInAnnotation") for copy in masked), key=str) == [None, "YES"]
    assert "113101" not in str(copies)
    assert "is blanked in 2 copied images; review these images" in caplog.text
    assert json.loads((source.parent / "copy" / "deidentified.json").read_text())["images_masked"] == 2
    for copy in masked:
        assert suspicion(find_lines(copy.pixel_array)) < THRESHOLD
        assert (copy.pixel_array[60:] > 0).any()


def test_masking_works_on_compressed_pixels(tmp_path: Path) -> None:
    file = tmp_path / "source" / "a.dcm"
    write_ultrasound(file, write_on(tissue(0)))
    dataset = dcmread(file)
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(file)
    run(tmp_path / "source", taking={"burned_in": "mask"})
    (copy,) = [dcmread(path) for path in (tmp_path / "copy").rglob("*.dcm")]
    assert copy.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert suspicion(find_lines(copy.pixel_array)) < THRESHOLD


@pytest.mark.parametrize("orientation", [[1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1], [-1, 0, 0, 0, 0, -1]])
def test_writing_in_a_volume_is_blanked_through_all_its_slices(orientation: list[int], tmp_path: Path) -> None:
    normal = np.cross(orientation[:3], orientation[3:])
    for k in range(4):
        pixels = write_on(tissue(k), size=14, at=(20, 150)) if k != 2 else tissue(k)
        place = {"ImagePositionPatient": list(map(float, k * normal)), "ImageOrientationPatient": orientation}
        elements = {"SeriesInstanceUID": "1.2.9", "StudyInstanceUID": "1.2.8", "PatientID": "A", "InstanceNumber": k}
        elements |= {"SOPClassUID": MRImageStorage, "Modality": "MR"}
        file = tmp_path / "source" / f"{'abcd'[k]}.dcm"
        write_ultrasound(file, pixels, **place, **elements, PixelSpacing=[1.0, 1.0], BurnedInAnnotation="YES")
    manifest = run(tmp_path / "source", taking={"burned_in": "mask"})
    (row,) = manifest
    assert row.kind == "volume"
    copies = sorted((dcmread(file) for file in (tmp_path / "copy").rglob("*.dcm")), key=lambda d: d.InstanceNumber)
    for k, copy in enumerate(copies):
        assert suspicion(find_lines(copy.pixel_array)) < THRESHOLD
        assert (copy.pixel_array[152:160, 30:120] == copy.pixel_array.min()).all(), f"slice {k}"
        np.testing.assert_array_equal(copy.pixel_array[:130], tissue(k)[:130])
    stored = load(manifest, row).pixels
    assert sorted(stored.ravel()) == sorted(np.stack([copy.pixel_array for copy in copies]).ravel())


def test_kept_images_are_counted(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        manifest = run(source, taking={"burned_in": {"policy": "keep"}})
    assert len(manifest) == 4
    assert "burned-in text in 2 images: 2 kept" in caplog.text
    annotation = [dcmread(file).get("BurnedInAnnotation") for file in (source.parent / "copy").rglob("*.dcm")]
    assert sorted(annotation, key=str) == ["NO", None, "YES", "YES"]


def test_an_annotation_that_says_yes_is_believed_of_any_kind(tmp_path: Path) -> None:
    for name, annotation in (("a", "YES"), ("b", "NO")):
        path = tmp_path / "source" / f"{name}.dcm"
        elements = {"Modality": "DX", "SOPClassUID": DigitalXRayImageStorageForPresentation}
        write_ultrasound(path, tissue(0), **elements, BurnedInAnnotation=annotation)
    manifest = run(tmp_path / "source", taking={"burned_in": "mask"})
    assert len(manifest) == 1
    (entry,) = quarantine.read(manifest.folder)
    assert "but the detector found no text line to mask" in entry.reason


def test_kinds_that_rarely_carry_writing_are_looked_at_when_asked(tmp_path: Path) -> None:
    for name, pixels in (("a", tissue(0)), ("b", write_on(tissue(1)))):
        path = tmp_path / "source" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    assert len(run(tmp_path / "source", deidentify={})) == 2
    asked = {"look_at": "all", "policy": "quarantine"}
    assert len(run(tmp_path / "source", deidentify={}, dataset=tmp_path / "all", taking={"burned_in": asked})) == 1
    assert len(run(tmp_path / "source", deidentify={}, dataset=tmp_path / "us", scanning={"modality": "US"})) == 1


@pytest.mark.parametrize(("name", "outside"), [("US1_UNC", slice(0, 100)), ("VL1_UNC", slice(0, 486))])
def test_all_writing_of_real_screens_is_masked(shared_data: Path, name: str, outside: slice) -> None:
    """Outside of the image area, only an outlined logo of the manufacturer and an arrow remain."""
    (frame,) = frames_in([shared_data / "nema-wg04" / "REF" / name])
    masked = blanked(frame, to_mask([(frame, find_lines(frame))]), 0)
    assert (masked[outside, : 270 if name == "VL1_UNC" else None].max(axis=-1) > 60).sum() < 150  # of some 4000


class TestRealImages:
    """Generated text on real images; figures of a larger run stand in the docstring of the detector."""

    @pytest.mark.parametrize(
        ("pattern", "min_found", "max_false"),
        [("brain-tumor-mri-2d/*/*/*.jpg", 0.85, 0.2), ("drive/test/images/*.tif", 0.9, 0.1)],
    )
    def test_most_writing_is_found_and_few_images_are_taken_for_written_on(
        self, shared_data: Path, pattern: str, min_found: float, max_false: float
    ) -> None:
        files = sorted(shared_data.glob(pattern))[:: 40 if "brain" in pattern else 1][:12]
        clean = [np.asarray(Image.open(file).convert("L").resize((256, 256))) for file in files]
        false = [suspicion(find_lines(pixels)) >= THRESHOLD for pixels in clean]
        found = [suspicion(find_lines(write_on(pixels, size=14))) >= THRESHOLD for pixels in clean]
        assert len(files) >= 8
        assert np.mean(found) >= min_found
        assert np.mean(false) <= max_false
