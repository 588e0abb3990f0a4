"""Reader of MetaImage and NRRD through SimpleITK: .mha, .mhd, .nrrd, .nhdr. LPS, used by ITK, is converted to RAS+."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num
from numpy import ndarray as Array

from medvit.errors import GeometryError, MedvitError, NotAnImageError, UnsupportedError
from medvit.files.guard import decoding, refusal
from medvit.files.limits import check_volume
from medvit.geometry import SHEAR_TOLERANCE_MM, Affine, check_grid, drift, lps_to_ras, ras_extent, to_ras
from medvit.measured import narrowed
from medvit.readers.itk_axes import check_axes, lacks_directions, mm_per_unit, names_axes, what_lacks
from medvit.readers.itk_header import MAX_HEADER_BYTES, TextHeader, check_num_bytes, read_text_header
from medvit.readers.label_maps import LabelMap, as_labels, label_volume
from medvit.readers.options import GeometryConfig
from medvit.readers.volume_texts import itk_texts
from medvit.records import AnatomicalAxes, Extent, FileText, Item, Refusal
from medvit.series.resampling import RESAMPLED
from medvit.series.shear import straightened
from medvit.types import Image

HEADERS = (".mha", ".mhd", ".nrrd", ".nhdr")
ENCODINGS = ("raw", "gzip", "gz", "ascii", "text", "txt", "hex")
"""NRRD encodings that ITK is built with."""
DETACHED = (".raw", ".zraw")
"""Suffixes of voxel files that a .mhd or .nhdr names."""


@dataclass(frozen=True)
class Itk:
    """Reader of 2D and 3D images in MetaImage and NRRD format. The files do not store the modality, so it is empty."""

    grid: GeometryConfig = field(default_factory=GeometryConfig)
    name: str = "itk"

    def sniff(self, path: Path, head: bytes) -> bool:
        """Return whether the file has a suffix of these formats or begins as a NRRD."""
        return path.name.lower().removesuffix(".gz").endswith((*HEADERS, *DETACHED)) or head.startswith(b"NRRD000")

    def with_grid(self, grid: GeometryConfig) -> Itk:
        """Return the same reader with options for sheared grids, and for files without stated anatomical axes."""
        return replace(self, grid=grid)

    def find(self, files: Sequence[Path]) -> Iterator[Item | Refusal]:
        """Yield an item per image or volume; a separate file of voxels belongs to the item of its header."""
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
                    item = self._item(group)
            except MedvitError as error:
                yield refusal(group, error)
            else:
                yield item
        for file in sorted(detached - claimed):
            yield refusal((file,), NotAnImageError("voxels without a header (.mhd or .nhdr) that names them"))

    def _item(self, files: tuple[Path, ...]) -> Item:
        source = _open(files[0])
        if source.GetDimension() == 2:
            return Item(reader=self.name, files=files, kind="image")
        header = read_text_header(files[0])
        affine, shape = _affine(source, header, self.grid.assume), source.GetSize()[:3]
        is_sheared = drift(affine, shape) > SHEAR_TOLERANCE_MM
        if is_sheared and self.grid.irregular != "resample":
            check_grid(affine, shape)
        is_assumed = bool(self.grid.assume and not names_axes(header))
        words = (RESAMPLED if is_sheared else "", f"axes {self.grid.assume}, as given" if is_assumed else "")
        return Item(
            reader=self.name,
            files=files,
            kind="volume",
            part=", ".join(filter(None, words)),
            is_resampled=is_sheared,
            assumed_axes=self.grid.assume,
        )

    def read(self, item: Item) -> Image:
        """Read a volume (1, I, J, K) or an image (1, H, W), in its stored type."""
        voxels, affine, mpp = _load(item.files[0], item.assumed_axes)
        if affine is None:
            return Image(voxels[None], "image", item.modality, mpp=mpp)
        if item.is_resampled:
            voxels, affine = straightened(voxels, affine, "linear")
        turned, turned_affine = to_ras(voxels[None], affine)
        return Image(turned, "volume", item.modality, turned_affine)

    def extent(self, item: Item) -> Extent:
        """Return the size (H, W) of an image, or voxels and spacing along R, A and S of a volume."""
        source, header = _open(item.files[0]), read_text_header(item.files[0])
        bits = 8 * _voxel_bytes(source.GetPixelID())
        if item.kind == "image":
            columns, rows = source.GetSize()[:2]
            return Extent((rows, columns), bits=bits)
        shape, spacing_mm = ras_extent(source.GetSize()[:3], _affine(source, header, item.assumed_axes))
        return Extent(shape, bits=bits, spacing_mm=spacing_mm)

    def texts(self, path: Path) -> Iterator[FileText]:
        """Yield fields and comments that do not describe the grid; a separate file of voxels contains no text."""
        return iter(()) if _is_detached(path) else itk_texts(path, MAX_HEADER_BYTES)

    def read_mask(self, path: Path, image: Item | None = None) -> LabelMap:
        """Read the labels of a file, (I, J, K) or (H, W).

        Raises:
            DataError: If a label is not a whole number.
        """
        voxels, affine, _ = _load(path, None if image is None else image.assumed_axes)
        if affine is None:
            return LabelMap(as_labels(voxels))
        if image is not None and image.is_resampled:
            voxels, affine = straightened(as_labels(voxels), affine, "nearest")
        return label_volume(voxels, affine)


def _is_detached(file: Path) -> bool:
    return file.name.lower().removesuffix(".gz").endswith(DETACHED)


def _open(path: Path) -> Any:
    import SimpleITK as sitk  # noqa: N813

    header = read_text_header(path)  # before ITK, which would open any file that the header names
    if header.is_nrrd and header.get("dimension") == "3" and header.get("space") and lacks_directions(header):
        raise GeometryError(f"{what_lacks(header)}; add them to the header")
    if header.is_nrrd and header.get("encoding").lower() not in ENCODINGS:
        raise UnsupportedError(
            f"a NRRD encoded as {header.get('encoding')[:16]!r}; expected one of {', '.join(ENCODINGS)}"
        )
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # ITK's warnings quote paths
    source = sitk.ImageFileReader()
    source.SetFileName(str(path))
    source.ReadImageInformation()
    size = source.GetSize()
    if source.GetNumberOfComponents() > 1:
        raise UnsupportedError(
            f"voxels of {source.GetNumberOfComponents()} numbers each; expected one number per voxel"
        )
    if len(size) not in (2, 3) and any(n > 1 for n in size[3:]):
        raise UnsupportedError(f"an image of shape {size}; expected one volume: split it along its last axes")
    promised = int(np.prod(size, dtype=np.float64)) * _voxel_bytes(source.GetPixelID())
    check_volume(promised, sum(file.stat().st_size for file in header.data_files or (path,)))
    check_num_bytes(header, promised)
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


def _load(path: Path, assumed: AnatomicalAxes | None) -> tuple[Num[Array, "*s"], Affine | None, float | None]:
    import SimpleITK as sitk  # noqa: N813

    source, header = _open(path), read_text_header(path)
    image = source.Execute()
    voxels = narrowed(sitk.GetArrayFromImage(image))  # slowest axis first
    if image.GetDimension() == 2:
        spacing = image.GetSpacing()
        # ITK returns a spacing of exactly 1 when the file has none.
        is_isotropic = abs(spacing[0] - spacing[1]) <= 1e-3 * spacing[0] and spacing[0] != 1.0
        return voxels, None, spacing[0] * 1000.0 * mm_per_unit(header) if is_isotropic else None
    volume = voxels.reshape(voxels.shape[-3:]).transpose(2, 1, 0)
    return volume, _affine(image, header, assumed), None


def _affine(source: Any, header: TextHeader, assumed: AnatomicalAxes | None) -> Affine:
    """Return the affine of an image, based on the anatomical axes in its header.

    If the header does not name the axes, the `assumed` ones are used. `source` is an image, or an ITK reader that has
    read the header.
    """
    size = source.GetDimension()
    matrix = np.eye(4)
    directions = np.array(source.GetDirection()).reshape(size, size)[:3, :3]
    matrix[:3, :3] = directions * np.array(source.GetSpacing()[:3])
    matrix[:3, 3] = source.GetOrigin()[:3]
    check_axes(header, directions)
    if not names_axes(header):
        if assumed is None:
            raise GeometryError(f"{what_lacks(header)}; set geometry.assume=LPS or geometry.assume=RAS")
        # ITK reads unnamed axes as LPS.
        matrix = lps_to_ras(matrix) if assumed == "RAS" else matrix
    scale = mm_per_unit(header)
    return Affine(np.diag([scale, scale, scale, 1.0]) @ lps_to_ras(matrix))


READER = Itk()
