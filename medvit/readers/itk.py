"""MetaImage and NRRD through SimpleITK: .mha, .mhd, .nrrd, .nhdr. ITK says LPS; it is turned to RAS+ here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num
from numpy import ndarray as Array

from medvit.errors import GeometryError, MedvitError, NotAnImageError, UnsupportedError
from medvit.files.guard import decoding, refusal
from medvit.files.limits import check_compressed
from medvit.geometry import Affine, lps_to_ras, to_ras
from medvit.readers.itk_header import MAX_HEADER_BYTES, check_num_bytes, read_text_header
from medvit.readers.label_maps import LabelMap, as_labels, label_volume
from medvit.readers.volume_texts import itk_texts
from medvit.records import FileText, Item, Refusal
from medvit.types import Image

HEADERS = (".mha", ".mhd", ".nrrd", ".nhdr")
DETACHED = (".raw", ".zraw")
"""Voxels of a .mhd or .nhdr that names them."""


class Itk:
    """MetaImage and NRRD, in 2D and 3D. The modality is not in the file: it stays empty."""

    name = "itk"

    def sniff(self, path: Path, head: bytes) -> bool:
        """Whether the file is named as one of them or begins as a NRRD."""
        return path.name.lower().removesuffix(".gz").endswith((*HEADERS, *DETACHED)) or head.startswith(b"NRRD000")

    def find(self, files: Sequence[Path]) -> Iterator[Item | Refusal]:
        """An item an image or volume; detached voxels are told of with their header."""
        detached = {file for file in files if _is_detached(file)}
        claimed = set[Path]()
        for file in files:
            if file in detached:
                continue
            group: tuple[Path, ...] = (file,)
            try:
                with decoding("the header"):
                    group = read_text_header(file).files
                    claimed.update(group)
                    dimensions = _open(file).GetDimension()
            except MedvitError as error:
                yield refusal(group, error)
            else:
                yield Item(reader=self.name, files=group, kind="image" if dimensions == 2 else "volume")
        for file in sorted(detached - claimed):
            yield refusal((file,), NotAnImageError("voxels without a header (.mhd or .nhdr) that names them"))

    def read(self, item: Item) -> Image:
        """A volume (1, I, J, K) or an image (1, H, W), in its stored type."""
        voxels, affine, mpp = _load(item.files[0])
        if affine is None:
            return Image(voxels[None], "image", item.modality, mpp=mpp)
        turned, turned_affine = to_ras(voxels[None], affine)
        return Image(turned, "volume", item.modality, turned_affine)

    def texts(self, path: Path) -> Iterator[FileText]:
        """Fields and comments beyond the grid; voxels in a file of their own have none."""
        return iter(()) if _is_detached(path) else itk_texts(path, MAX_HEADER_BYTES)

    def read_mask(self, path: Path) -> LabelMap:
        """The labels of a file, (I, J, K) or (H, W).

        Raises:
            DataError: If a value is not a whole number.
        """
        voxels, affine, _ = _load(path)
        return LabelMap(as_labels(voxels)) if affine is None else label_volume(voxels, affine)


def _is_detached(file: Path) -> bool:
    return file.name.lower().removesuffix(".gz").endswith(DETACHED)


def _open(path: Path) -> Any:
    import SimpleITK as sitk  # noqa: N813

    header = read_text_header(path)  # before ITK, which would open whatever file the header names
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # ITK's warnings quote paths
    source = sitk.ImageFileReader()
    source.SetFileName(str(path))
    source.ReadImageInformation()
    size = source.GetSize()
    if source.GetNumberOfComponents() > 1:
        raise UnsupportedError(f"{source.GetNumberOfComponents()} numbers a voxel; expected one")
    if len(size) not in (2, 3) and any(n > 1 for n in size[3:]):
        raise UnsupportedError(f"an image of shape {size}; expected one volume: split it along its last axes")
    promised = int(np.prod(size, dtype=np.float64)) * _voxel_bytes(source.GetPixelID())
    check_compressed(promised, sum(file.stat().st_size for file in header.data_files or (path,)))
    check_num_bytes(header, promised)
    if header.is_nrrd and len(size) > 2 and "NRRD_space" not in source.GetMetaDataKeys():
        raise GeometryError(
            "the NRRD has no field 'space', so left and right are unknown; add 'space: left-posterior-superior'"
        )
    return source


def _voxel_bytes(pixel_id: int) -> int:
    import SimpleITK as sitk  # noqa: N813

    kinds = {
        1: (sitk.sitkUInt8, sitk.sitkInt8),
        2: (sitk.sitkUInt16, sitk.sitkInt16),
        4: (sitk.sitkUInt32, sitk.sitkInt32, sitk.sitkFloat32),
        8: (sitk.sitkUInt64, sitk.sitkInt64, sitk.sitkFloat64),
    }
    for num_bytes, pixel_ids in kinds.items():
        if pixel_id in pixel_ids:
            return num_bytes
    raise UnsupportedError(f"voxels of {sitk.GetPixelIDValueAsString(pixel_id)}; expected one real number each")


def _load(path: Path) -> tuple[Num[Array, "*s"], Affine | None, float | None]:
    import SimpleITK as sitk  # noqa: N813

    image = _open(path).Execute()
    voxels = sitk.GetArrayFromImage(image)  # slowest axis first
    spacing = image.GetSpacing()
    if image.GetDimension() == 2:
        # A spacing of exactly 1 is what ITK says when the file says none.
        is_isotropic = abs(spacing[0] - spacing[1]) <= 1e-3 * spacing[0] and spacing[0] != 1.0
        return voxels, None, spacing[0] * 1000.0 if is_isotropic else None
    size = image.GetDimension()
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(image.GetDirection()).reshape(size, size)[:3, :3] * np.array(spacing[:3])
    matrix[:3, 3] = image.GetOrigin()[:3]
    volume = voxels.reshape(voxels.shape[-3:]).transpose(2, 1, 0)
    return volume, Affine(lps_to_ras(matrix)), None


READER = Itk()
