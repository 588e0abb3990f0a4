"""Phantoms: small synthetic images with labels, written as DICOM, NIfTI, PNG and whole slides.

They serve to run and test the pipeline without patients. The same seed writes identical files. A phantom is a drawing:
results on it show that the pipeline works, but nothing about performance on patients.
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy import ndarray as Array
from PIL import Image
from scipy.spatial.transform import Rotation

from medvit.geometry import Affine
from medvit.phantoms import ct, fundus, radiograph, slide
from medvit.phantoms import oct as tomogram
from medvit.phantoms.dicom import (
    PhantomPatient,
    lose_slice,
    write_ct_series,
    write_localizer,
    write_photograph,
    write_radiograph,
    write_tomogram,
)
from medvit.phantoms.slide_dicom import write_dicom_slide

CT_CLASSES = ct.CLASSES
RADIOGRAPH_CLASSES = radiograph.CLASSES
FUNDUS_CLASSES = fundus.CLASSES
SLIDE_CLASSES = slide.CLASSES
OCT_CLASSES, OCT_LAYERS = tomogram.CLASSES, tomogram.LAYERS

__all__ = [
    "CT_CLASSES",
    "FUNDUS_CLASSES",
    "OCT_CLASSES",
    "OCT_LAYERS",
    "RADIOGRAPH_CLASSES",
    "SLIDE_CLASSES",
    "ct_labels",
    "lose_slice",
    "slide_labels",
    "write_ct_pairs",
    "write_ct_studies",
    "write_fundus",
    "write_fundus_studies",
    "write_oct_stacks",
    "write_oct_studies",
    "write_radiograph_studies",
    "write_radiographs",
    "write_slide_studies",
    "write_slides",
]

CT_ORIENTATIONS = ("LPS", "LPI", "LPS", "LIA")
"""Orientations (columns, rows, slices) of successive studies, repeated: axial upwards, axial downwards, axial upwards,
coronal.
"""

NIFTI_ORIENTATIONS = ("RAS", "LAS", "RAS", "LPS")
SLIDES_A_PATIENT = 2
INKED_EVERY = 5
"""Every fifth slide has marker ink on it, so ink is equally frequent in both classes."""
LESION_SCALE = 3.0
"""Factor by which lesions in the photographs of studies are enlarged, so that a small model can detect them."""
SAME_CLASS = 0.6
"""Probability that the second eye has the class of the first; otherwise, its class is drawn at random."""
SECOND_VISIT_EVERY = 4
"""Every fourth patient had both retinas photographed a second time."""
OBLIQUE_EVERY = 4
"""Every fourth volume is oblique in the scanner."""


def write_ct_studies(folder: Path, num_studies: int, *, seed: int = 0) -> list[Path]:
    """Write DICOM studies, each with a scout and a CT series; return the study folders, one per patient."""
    studies = [folder / f"study-{number:03d}" for number in range(num_studies)]
    for number, study in enumerate(studies):
        subject = PhantomPatient(seed, number)
        phantom, affine = _patient(seed, number)
        orientation = CT_ORIENTATIONS[number % len(CT_ORIENTATIONS)]
        write_localizer(study / "scout", phantom.hu, affine, subject=subject)
        write_ct_series(study / "abdomen", phantom.hu, affine, subject=subject, orientation=orientation)
    return studies


def write_ct_pairs(folder: Path, num_pairs: int, *, seed: int = 0) -> None:
    """Write NIfTI volumes into `images/` and, under the same names, label maps of `CT_CLASSES` into `labels/`."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(num_pairs):
        phantom, affine = _patient(seed, number)
        orientation = NIFTI_ORIENTATIONS[number % len(NIFTI_ORIENTATIONS)]
        _write_nifti(folder / "images" / f"phantom_{number:03d}.nii.gz", phantom.hu, affine, orientation)
        _write_nifti(folder / "labels" / f"phantom_{number:03d}.nii.gz", phantom.labels, affine, orientation)


def ct_labels(number: int, *, seed: int = 0) -> tuple[Array, Affine]:
    """Return the label map (I, J, K) in RAS+ of a patient of `write_ct_studies` or `write_ct_pairs`, and its affine."""
    phantom, affine = _patient(seed, number)
    return phantom.labels, affine


def write_radiographs(folder: Path, num_images: int, *, seed: int = 0) -> None:
    """Write chest radiographs as 16-bit PNG into a folder per class, cycling through the classes."""
    for number in range(num_images):
        label, pixels = _radiograph(seed, number)
        path = folder / label / f"phantom_{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def write_radiograph_studies(folder: Path, num_images: int, *, seed: int = 0) -> None:
    """Write chest radiographs as DICOM into a folder per class, cycling through classes, every third as MONOCHROME1."""
    for number in range(num_images):
        label, pixels = _radiograph(seed, number)
        path = folder / label / f"IM{number:05d}.dcm"
        write_radiograph(path, pixels, subject=PhantomPatient(seed, number), inverted=number % 3 == 2)


def write_fundus(folder: Path, num_images: int, *, seed: int = 0) -> None:
    """Write color photographs of the retina as PNG into a folder per class, cycling through the classes."""
    for number in range(num_images):
        label = FUNDUS_CLASSES[number % len(FUNDUS_CLASSES)]
        path = folder / label / f"phantom_{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(fundus.fundus(np.random.default_rng([seed, number, 2]), label)).save(path)


def write_fundus_studies(folder: Path, num_patients: int, *, seed: int = 0) -> None:
    """Write photographs of both retinas of each patient as DICOM, in a folder per class, a study per visit.

    The right eyes cycle through the classes; a left eye, and an eye at a second visit, mostly has the same class.
    """
    for number in range(num_patients):
        generator = np.random.default_rng([seed, number, 6])
        label = FUNDUS_CLASSES[number % len(FUNDUS_CLASSES)]
        for visit in range(2 if number % SECOND_VISIT_EVERY == SECOND_VISIT_EVERY - 1 else 1):
            for side in ("right", "left"):
                if visit or side == "left":
                    label = label if generator.random() < SAME_CLASS else str(generator.choice(FUNDUS_CLASSES))
                path = folder / label / f"EYE{number:03d}-visit{visit + 1}-{side}.dcm"
                pixels = fundus.fundus(generator, label, lesion_scale=LESION_SCALE)
                write_photograph(path, pixels, subject=PhantomPatient(seed, number, visit), side=side)


def write_slides(folder: Path, num_slides: int, *, seed: int = 0, shape: tuple[int, int] = slide.SHAPE) -> list[Path]:
    """Write slides as pyramidal TIFF into a folder per class: `patient-NNN-slide-N.tif`, two per patient."""
    paths = []
    for number in range(num_slides):
        label, phantom = _slide(seed, number, shape)
        paths.append(folder / label / f"patient-{number // SLIDES_A_PATIENT:03d}-slide-{number}.tif")
        slide.write_tiff(paths[-1], phantom.pixels)
    return paths


def write_slide_studies(folder: Path, num_slides: int, *, seed: int = 0) -> list[Path]:
    """Write the slides of `write_slides` as DICOM: a folder per slide, with a file per level and a label.

    Return the folders.
    """
    folders = []
    for number in range(num_slides):
        label, phantom = _slide(seed, number)
        folders.append(folder / label / f"slide-{number:03d}")
        write_dicom_slide(folders[-1], phantom.pixels, subject=PhantomPatient(seed, number))
    return folders


def slide_labels(number: int, *, seed: int = 0) -> Array:
    """Return the class map of a slide of `write_slides`, every 16 pixels (h, w): 0 glass, 1 normal tissue, 2 tumor."""
    return _slide(seed, number)[1].labels


def has_ink(number: int) -> bool:
    """Return whether a slide of `write_slides` has marker ink on it."""
    return number % INKED_EVERY == INKED_EVERY - 1


def _slide(seed: int, number: int, shape: tuple[int, int] = slide.SHAPE) -> tuple[str, slide.SlidePhantom]:
    label = SLIDE_CLASSES[number // SLIDES_A_PATIENT % len(SLIDE_CLASSES)]
    grade = np.random.default_rng([seed, number // SLIDES_A_PATIENT, 5]).uniform(*slide.GRADES)
    generator = np.random.default_rng([seed, number, 3])
    return label, slide.slide(generator, label, has_ink=has_ink(number), shape=shape, grade=grade)


def write_oct_studies(folder: Path, num_patients: int, *, seed: int = 0, without: tuple[int, ...] = ()) -> None:
    """Write OCT volumes as multi-frame DICOM, both eyes of a patient in one study, in a folder per class of the eye.

    The right eyes cycle through the classes, and the left eyes have a random class. B-scans with the numbers in
    `without` are omitted.
    """
    for number in range(num_patients):
        for side in ("right", "left"):
            label, phantom = _eye(seed, number, side)
            path = folder / label / f"OCT{number:03d}-{side}.dcm"
            subject = PhantomPatient(seed, number)
            write_tomogram(path, phantom.pixels, tomogram.SPACING_MM, subject=subject, side=side, without=without)


def write_oct_stacks(folder: Path, num_eyes: int, *, seed: int = 0) -> None:
    """Write OCT volumes as folders of PNG, one per B-scan, in `images/`, and their layers in `labels/`.

    Label maps have the names of their B-scans; their values are the indices of `OCT_LAYERS`.
    """
    for number in range(num_eyes):
        side = ("right", "left")[number % 2]
        _, phantom = _eye(seed, number, side)
        for name, scans in (("images", phantom.pixels), ("labels", phantom.labels)):
            inside = folder / name / f"eye{number:03d}_{side}"
            inside.mkdir(parents=True, exist_ok=True)
            for index, scan in enumerate(scans):
                Image.fromarray(scan).save(inside / f"bscan_{index + 1:03d}.png")


def _eye(seed: int, number: int, side: str) -> tuple[str, tomogram.OctPhantom]:
    generator = np.random.default_rng([seed, number, 3 if side == "right" else 4])
    label = OCT_CLASSES[number % 2] if side == "right" else str(generator.choice(OCT_CLASSES))
    return label, tomogram.oct_volume(generator, label, side=side)


def _patient(seed: int, number: int) -> tuple[ct.CtPhantom, Affine]:
    phantom = ct.ct(np.random.default_rng([seed, number, 0]))
    if number % OBLIQUE_EVERY != OBLIQUE_EVERY - 2:
        return phantom, phantom.affine
    tilt = np.eye(4)
    tilt[:3, :3] = Rotation.from_euler("xyz", [9, -4, 6], degrees=True).as_matrix()
    return phantom, Affine(tilt) @ phantom.affine


def _radiograph(seed: int, number: int) -> tuple[str, Array]:
    label = RADIOGRAPH_CLASSES[number % len(RADIOGRAPH_CLASSES)]
    return label, radiograph.radiograph(np.random.default_rng([seed, number, 1]), label)


def _write_nifti(path: Path, voxels: Array, affine: Affine, orientation: str) -> None:
    image = nib.Nifti1Image(voxels, affine.matrix)
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(orientation)
    )
    turned = image.as_reoriented(turn)
    turned.header.set_xyzt_units("mm")
    nib.save(turned, path)
