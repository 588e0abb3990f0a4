"""The size that a header gives is that of the pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image as Pillow

from medvit import readers
from medvit.records import Extent, Item
from tests.wsi.slides import picture, write_slide


def nifti(folder: Path) -> None:
    # Axes run to P, S and L, so that their order and direction both change.
    affine = np.array([[0, 0, -2.0, 0], [-1.0, 0, 0, 0], [0, 1.5, 0, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), affine), folder / "x.nii.gz")


def metaimage(folder: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((3, 4, 5), np.uint8))
    image.SetSpacing((0.5, 1.0, 2.0))
    sitk.WriteImage(image, str(folder / "x.mha"))


def pictures(folder: Path) -> None:
    Pillow.fromarray(np.zeros((4, 5, 3), np.uint8)).save(folder / "color.png")
    Pillow.fromarray(np.zeros((4, 6), np.uint16)).save(folder / "gray.png")
    Pillow.fromarray(np.zeros((7, 5), np.uint8)).save(folder / "gray.tif")
    Pillow.fromarray(np.full((7, 4, 4), 255, np.uint8)).save(folder / "opaque.png")
    Pillow.fromarray(np.zeros((3, 4, 3), np.uint8)).convert("P").save(folder / "palette.gif")


def arrays(folder: Path) -> None:
    np.savez(folder / "images.npz", train_images=np.zeros((2, 4, 5, 3), np.uint8))
    np.savez(folder / "volumes.npz", test_images=np.zeros((2, 4, 5, 6), np.uint8))


@pytest.mark.parametrize("write", [nifti, metaimage, pictures, arrays])
def test_the_extent_of_an_image_is_that_of_its_pixels(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path)
    check(sorted(tmp_path.iterdir()))


# The second one is sagittal, its slices in descending order.
@pytest.mark.parametrize("orientation", [[1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1]])
def test_the_extent_of_dicom_is_that_of_its_pixels(
    write_series: Callable[..., tuple[list[Path], np.ndarray]], orientation: list[int]
) -> None:
    check(write_series(ImageOrientationPatient=orientation)[0])
    check(write_series(places_mm=(0,), SeriesInstanceUID="1.2.3.5", PixelSpacing=[0.5, 0.5])[0])


def check(files: list[Path]) -> None:
    items = [one for one in readers.find(files) if isinstance(one, Item)]
    assert items
    for item in items:
        extent, image = readers.extent(item), readers.read(item)
        assert extent is not None
        assert (extent.channels, *extent.shape) == image.pixels.shape
        assert extent.mpp == image.mpp
        if image.affine is not None:
            assert extent.spacing_mm == pytest.approx(image.affine.spacing_mm)  # mm
        assert extent.bits in (None, 8 * image.pixels.dtype.itemsize)


def test_the_extent_of_a_slide_is_that_of_its_finest_level(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "x.tif", picture(0, has_tumor=False), mpp=0.25)
    (item,) = readers.find([path])
    assert isinstance(item, Item)
    assert readers.extent(item) == Extent(picture(0, has_tumor=False).shape[:2], 3, 8, mpp=pytest.approx(0.25))
