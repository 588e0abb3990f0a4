"""Phantoms are deterministic, are where they claim to be, pass the DICOM validator, and are not trivial."""

from __future__ import annotations

import hashlib
import itertools
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image

from medvit import phantoms
from medvit.geometry import Affine, lps_to_ras, to_ras
from medvit.phantoms import oct as tomogram
from medvit.phantoms.ct import CLASSES, ct


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def write_all(folder: Path, seed: int) -> None:
    phantoms.write_ct_studies(folder / "studies", 1, seed=seed)
    phantoms.write_radiographs(folder / "png", 2, seed=seed)
    phantoms.write_radiograph_studies(folder / "dx", 2, seed=seed)
    phantoms.write_fundus(folder / "fundus", 2, seed=seed)
    phantoms.write_fundus_studies(folder / "eyes", 1, seed=seed)
    phantoms.write_oct_studies(folder / "oct", 1, seed=seed)
    phantoms.write_oct_stacks(folder / "stacks", 1, seed=seed)


def read_series(folder: Path) -> tuple[np.ndarray, Affine]:
    slices = sorted((pydicom.dcmread(path) for path in folder.iterdir()), key=lambda d: d.InstanceNumber)
    first, last = slices[0], slices[-1]
    x, y = np.array(first.ImageOrientationPatient[:3]), np.array(first.ImageOrientationPatient[3:])
    step = (np.array(last.ImagePositionPatient) - np.array(first.ImagePositionPatient)) / (len(slices) - 1)
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1], matrix[:3, 2] = x * first.PixelSpacing[1], y * first.PixelSpacing[0], step
    matrix[:3, 3] = first.ImagePositionPatient
    stored = np.stack([d.pixel_array.T for d in slices], axis=-1).astype(np.int32)
    return to_ras(stored + int(first.RescaleIntercept), Affine(lps_to_ras(matrix)))


@pytest.mark.usefixtures("drawn_anew")
def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    write_all(tmp_path / "once", 3)
    write_all(tmp_path / "again", 3)
    assert digests(tmp_path / "once") == digests(tmp_path / "again")


def test_another_seed_draws_other_patients(tmp_path: Path) -> None:
    write_all(tmp_path / "three", 3)
    write_all(tmp_path / "four", 4)
    assert not set(digests(tmp_path / "three").values()) & set(digests(tmp_path / "four").values())


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return phantoms.write_ct_studies(tmp_path_factory.mktemp("studies"), 4, seed=1)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    phantoms.write_ct_pairs(folder, 4, seed=1)
    return folder


@pytest.mark.parametrize("number", range(4))
def test_a_series_read_from_its_headers_lies_on_the_label_map(studies: list[Path], number: int) -> None:
    hu, affine = read_series(studies[number] / "abdomen")
    labels, true = phantoms.ct_labels(number, seed=1)
    assert affine.is_close(true, tolerance_mm=1e-3)
    assert hu.shape == labels.shape
    assert 70 < np.median(hu[labels == CLASSES.index("liver")]) < 130  # HU


@pytest.mark.parametrize("number", range(4))
def test_a_nifti_pair_lies_on_the_label_map(pairs: Path, number: int) -> None:
    name = f"phantom_{number:03d}.nii.gz"
    image, mask = nib.load(pairs / "images" / name), nib.load(pairs / "labels" / name)
    labels, affine = to_ras(np.asarray(mask.dataobj), Affine(mask.affine))
    expected, true = phantoms.ct_labels(number, seed=1)
    assert np.array_equal(image.affine, mask.affine)
    assert affine.is_close(true, tolerance_mm=1e-3)
    assert np.array_equal(labels, expected)


def test_orientations_differ_between_patients(pairs: Path) -> None:
    codes = {nib.aff2axcodes(nib.load(path).affine) for path in (pairs / "images").iterdir()}
    assert len(codes) == 3


def test_a_threshold_does_not_segment_the_organs() -> None:
    for number in range(5):
        phantom = ct(np.random.default_rng([9, number]))
        for label in range(1, len(CLASSES)):
            organ = phantom.labels == label
            low, high = np.percentile(phantom.hu[organ], [5, 95])
            chosen = (phantom.hu >= low) & (phantom.hu <= high)
            assert 2 * (chosen & organ).sum() / (chosen.sum() + organ.sum()) < 0.75  # Dice


def test_every_patient_has_liver_and_spleen() -> None:
    for number in range(12):
        phantom = ct(np.random.default_rng([5, number]))
        liver, spleen, kidney = np.bincount(phantom.labels.ravel(), minlength=4)[1:] * phantom.affine.voxel_ml
        assert 500 < liver < 2500
        assert 40 < spleen < 700
        assert 40 < kidney < 700


def test_the_mean_of_a_radiograph_does_not_tell_its_class(tmp_path: Path) -> None:
    phantoms.write_radiographs(tmp_path, 40, seed=0)
    means = [
        np.array([np.asarray(Image.open(path)).mean() for path in sorted((tmp_path / label).iterdir())])
        for label in phantoms.RADIOGRAPH_CLASSES
    ]
    assert abs(means[0].mean() - means[1].mean()) < means[0].std()


def test_an_inverted_radiograph_says_so_and_shows_the_same(tmp_path: Path) -> None:
    phantoms.write_radiograph_studies(tmp_path, 3, seed=0)
    phantoms.write_radiographs(tmp_path / "png", 3, seed=0)
    header = pydicom.dcmread(tmp_path / "normal" / "IM00002.dcm")
    shown = np.asarray(Image.open(tmp_path / "png" / "normal" / "phantom_002.png"))
    assert header.PhotometricInterpretation == "MONOCHROME1"
    assert np.array_equal(4095 - header.pixel_array, shown)


def test_fundus_images_are_rgb_in_class_folders(tmp_path: Path) -> None:
    phantoms.write_fundus(tmp_path, 3, seed=0)
    assert {path.parent.name for path in tmp_path.rglob("*.png")} == set(phantoms.FUNDUS_CLASSES)
    assert all(np.asarray(Image.open(path)).shape == (96, 96, 3) for path in tmp_path.rglob("*.png"))


def test_photographs_of_a_patient_are_two_eyes_a_visit_and_a_study_a_visit(tmp_path: Path) -> None:
    phantoms.write_fundus_studies(tmp_path, 8, seed=0)
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in tmp_path.rglob("*.dcm")]
    eyes = {(one.PatientID, one.StudyInstanceUID, one.ImageLaterality) for one in headers}
    visits = Counter(patient for patient, _ in {eye[:2] for eye in eyes})
    assert len(headers) == len(eyes) == 2 * sum(visits.values())
    assert sorted(visits.values()) == [1] * 6 + [2] * 2


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools is not installed")
def test_dicom_phantoms_pass_the_validator(studies: list[Path], tmp_path: Path) -> None:
    phantoms.write_radiograph_studies(tmp_path, 3, seed=0)
    phantoms.write_fundus_studies(tmp_path, 1, seed=0)
    series = [next(folder.iterdir()) for study in studies for folder in study.iterdir()]
    for path in [*series, *tmp_path.rglob("*.dcm")]:
        verdict = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False).stderr
        assert "Error" not in verdict


def test_an_oct_phantom_passes_the_validator_but_for_one_contradiction(tmp_path: Path) -> None:
    """An image that is not a concatenation must have InConcatenationTotalNumber (PS3.3 C.8.17.8), and must not be 1."""
    dciodvfy = shutil.which("dciodvfy")
    if dciodvfy is None:
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    phantoms.write_oct_studies(tmp_path, 1)
    for path in tmp_path.rglob("*.dcm"):
        report = subprocess.run([dciodvfy, str(path)], capture_output=True, text=True, check=False).stderr
        errors = [line for line in report.splitlines() if line.startswith("Error")]
        assert all("oncatenation" in line for line in errors), errors


def test_the_layers_of_an_oct_lie_in_order_and_only_some_eyes_have_fluid() -> None:
    for number in range(6):
        label = tomogram.CLASSES[number % 2]
        phantom = tomogram.oct_volume(np.random.default_rng(number), label)
        values = [phantom.labels == value for value in (1, 2, 3)]
        depth = np.arange(phantom.labels.shape[1]).reshape(1, -1, 1)
        means = [(layer * depth).sum(axis=1) / np.maximum(layer.sum(axis=1), 1) for layer in values]
        for upper, lower in itertools.pairwise(means):
            there = (upper > 0) & (lower > 0)
            assert (upper[there] < lower[there]).all()
        assert (phantom.labels == 4).any() == (label == "fluid")


def test_the_brightness_of_an_oct_does_not_tell_its_class() -> None:
    draws = [tomogram.oct_volume(np.random.default_rng(n), tomogram.CLASSES[n % 2]).pixels.mean() for n in range(24)]
    assert abs(np.mean(draws[::2]) - np.mean(draws[1::2])) < np.std(draws)
