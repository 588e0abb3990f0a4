"""Phantom slides are deterministic, open like real files, and match their labels."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from medvit import phantoms
from medvit.phantoms import slide
from medvit.phantoms.dicom import PhantomPatient
from medvit.phantoms.large_slide import write_large
from medvit.phantoms.slide_dicom import write_dicom_slide
from medvit.wsi.slide import open_slide

SHAPE = (512, 768)


def drawn_anew(label: str = "tumor") -> slide.SlidePhantom:
    return slide.slide(np.random.default_rng(0), label, shape=SHAPE)


drawn = cache(drawn_anew)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path):
    files = []
    for name in ("once", "again"):
        slide.write_tiff(tmp_path / f"{name}.tif", drawn_anew().pixels)
        dicom = write_dicom_slide(tmp_path / name, drawn_anew().pixels, subject=PhantomPatient(0, 1))
        files.append([digest(tmp_path / f"{name}.tif"), *map(digest, dicom)])
    assert files[0] == files[1]


def tissue(one: slide.SlidePhantom) -> np.ndarray:
    return np.kron(one.labels, np.ones((slide.COARSE, slide.COARSE), np.uint8)) > 0


def large_nuclei(one: slide.SlidePhantom) -> np.ndarray:
    """Mask of the pixels more than 6 pixels within dark areas: within nuclei too large for normal tissue."""
    red = one.pixels[..., 0]
    return distance_transform_edt(red < 0.5 * np.median(red[tissue(one)])) > 6


def separation(scores: list[float], labels: list[str]) -> float:
    """AUROC of a score."""
    tumor, normal = (
        np.array([s for s, name in zip(scores, labels, strict=True) if name == c]) for c in ("tumor", "normal")
    )
    return float((tumor[:, None] > normal).mean())


def test_a_tumor_has_larger_nuclei_than_the_tissue_around_it():
    found = drawn()
    large = large_nuclei(found).reshape(SHAPE[0] // 16, 16, SHAPE[1] // 16, 16).mean(axis=(1, 3))
    assert large[found.labels == 2].mean() > 10 * large[found.labels == 1].mean()
    assert set(np.unique(drawn("normal").labels)) == {0, 1}


def test_nuclei_of_grade_0_are_those_of_normal_tissue():
    normal = slide.slide(np.random.default_rng(0), "tumor", shape=SHAPE, grade=0.0)
    assert large_nuclei(normal).mean() < 0.1 * large_nuclei(drawn()).mean()


def test_the_size_of_nuclei_separates_the_classes_and_the_mean_color_does_not():
    numbers = [number for number in range(60) if not phantoms.has_ink(number)]
    slides = [phantoms._slide(0, number, (384, 512)) for number in numbers]
    labels = [label for label, _ in slides]
    for channel in range(3):
        color = [-float(one.pixels[..., channel][tissue(one)].mean()) for _, one in slides]
        assert 0.25 < separation(color, labels) < 0.75
    size = [float(large_nuclei(one).sum() / tissue(one).sum()) for _, one in slides]
    assert separation(size, labels) > 0.9


def test_ink_is_as_frequent_on_slides_of_either_class():
    inked = [number // phantoms.SLIDES_A_PATIENT % 2 for number in range(40) if phantoms.has_ink(number)]
    assert inked.count(0) == inked.count(1) > 0


def test_a_tiff_opens_at_all_its_magnifications(tmp_path: Path):
    slide.write_tiff(tmp_path / "slide.tif", drawn().pixels)
    opened = open_slide(tmp_path / "slide.tif")
    assert opened.mpp == pytest.approx(slide.MPP, rel=1e-3)
    assert [level.downsample for level in opened.levels] == pytest.approx([1, 2, 4, 8], rel=0.02)


def test_dicom_and_tiff_show_the_same(tmp_path: Path):
    pixels = drawn().pixels
    slide.write_tiff(tmp_path / "slide.tif", pixels)
    files = write_dicom_slide(tmp_path / "dicom", pixels, subject=PhantomPatient(0, 1))
    one, other = (open_slide(path) for path in (tmp_path / "slide.tif", files[0]))
    assert one.shape == other.shape
    assert other.mpp == pytest.approx(slide.MPP)
    for mpp in (0.5, 1.0):
        difference = one.read(100, 60, 200, mpp).astype(int) - other.read(100, 60, 200, mpp)
        assert np.abs(difference).mean() < 5  # gray levels: JPEG halves the color of one of them


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="the DICOM validator dciodvfy is not installed")
def test_dicom_slides_pass_the_validator(tmp_path: Path):
    for file in write_dicom_slide(tmp_path, drawn().pixels, subject=PhantomPatient(0, 1)):
        printed = subprocess.run(["dciodvfy", "-new", str(file)], capture_output=True, text=True, check=False).stderr
        assert "Error" not in printed


def test_a_slide_of_any_size_is_a_small_file(tmp_path: Path):
    write_large(tmp_path / "large.tif", 60_000)
    assert (tmp_path / "large.tif").stat().st_size < 8 * 2**20
    opened = open_slide(tmp_path / "large.tif")
    assert opened.shape == (60_000, 60_000)
    assert opened.mpp == pytest.approx(0.25)
    assert opened.read(30_000, 30_000, 64, 0.25).mean() < opened.read(0, 0, 64, 0.25).mean() - 20  # gray levels


def test_slides_are_written_two_a_patient_into_a_folder_a_class(tmp_path: Path):
    paths = phantoms.write_slides(tmp_path, 3)
    names = [path.relative_to(tmp_path).as_posix() for path in paths]
    assert names == [
        "normal/patient-000-slide-0.tif",
        "normal/patient-000-slide-1.tif",
        "tumor/patient-001-slide-2.tif",
    ]
    assert phantoms.slide_labels(2).max() == 2


def test_memory_stays_flat_on_a_slide_of_100000_pixels(tmp_path: Path):
    write_large(tmp_path / "large.tif", 100_000)
    program = (
        "import resource, sys; from pathlib import Path; from medvit.wsi.slide import open_slide\n"
        "from PIL import Image; import numpy, tifffile, openslide\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"slide = open_slide(Path({str(tmp_path / 'large.tif')!r})); slide.check(); slide.overview(1024)\n"
        "for place in range(20_000, 80_000, 1_500): slide.read(place, place, 256, 0.25)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert float(printed) < 250  # MiB; the slide has 28,610
