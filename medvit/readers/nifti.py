"""Reader of NIfTI-1 and NIfTI-2: .nii, .nii.gz and pairs of .hdr and .img."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Num
from numpy import ndarray as Array

from medvit.errors import GeometryError, MedvitError, NotAnImageError, UnreadableError, UnsupportedError
from medvit.files.beside import named_beside
from medvit.files.guard import decoding, refusal
from medvit.files.limits import check_stored, check_volume
from medvit.geometry import SHEAR_TOLERANCE_MM, Affine, apart, check_grid, drift, ras_extent, to_ras
from medvit.measured import narrowed
from medvit.readers.label_maps import LabelMap, as_labels, label_volume
from medvit.readers.options import GeometryConfig
from medvit.readers.volume_texts import nifti_texts
from medvit.records import Extent, FileText, Item, NiftiForm, Refusal
from medvit.series.resampling import RESAMPLED
from medvit.series.shear import straightened
from medvit.types import Image

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

MAGIC = (b"n+1\0", b"ni1\0")
MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""Code of xyzt_units (unknown, meter, mm, micron) -> millimeters per unit; an unknown unit is taken as mm."""


APART_VOXELS = 0.5
"""Largest distance, in voxels, at which sform and qform still count as the same grid."""
log = logging.getLogger("medvit")


@dataclass(frozen=True)
class Nifti:
    """Reader of NIfTI volumes. The files do not store the modality, so it is empty."""

    grid: GeometryConfig = field(default_factory=GeometryConfig)
    name: str = "nifti"

    def sniff(self, path: Path, head: bytes) -> bool:
        """Return whether the file has the magic bytes of NIfTI-1 or -2, or a suffix .nii, .nii.gz, .img or .img.gz."""
        named = path.name.lower().removesuffix(".gz").endswith((".nii", ".img"))
        return named or head[344:348] in MAGIC or head[4:8] in (b"n+2\0", b"ni2\0")

    def with_grid(self, grid: GeometryConfig) -> Nifti:
        """Return the same reader with options for sheared grids, and for an sform that contradicts the qform."""
        return replace(self, grid=grid)

    def find(self, files: Sequence[Path]) -> Iterator[Item | Refusal]:
        """Yield an item per volume; the .img of a pair belongs to the item of its .hdr."""
        headers = {file for file in files if file.suffix.lower() == ".hdr"}
        voxels = {file for file in files if file.suffix.lower() == ".img"}
        num_two_grids = 0
        for file in files:
            if file in voxels:
                if file.with_suffix(".hdr") not in headers:
                    error = NotAnImageError("voxels without a NIfTI header (.hdr) beside them")
                    yield refusal((file,), error)
                continue
            beside = file.with_suffix(".img")
            group = (file, beside) if file in headers and beside in voxels else (file,)
            try:
                with decoding("the NIfTI header"):
                    source = _open(file)
                    item = self._item(group, source)
                    num_two_grids += _has_two_grids(source)
            except MedvitError as error:
                yield refusal(group, error)
            else:
                yield item
        if num_two_grids and self.grid.nifti is None:
            log.warning(
                "%d NIfTI files have an sform and a qform of different codes more than half a voxel apart; "
                "the sform was used (geometry.nifti=qform uses the other)",
                num_two_grids,
            )

    def _item(self, files: tuple[Path, ...], source: Nifti1Image) -> Item:
        affine = _affine(source, self.grid.nifti)
        is_sheared = drift(affine, _shape(source)) > SHEAR_TOLERANCE_MM
        if is_sheared and self.grid.irregular != "resample":
            check_grid(affine, _shape(source))
        return Item(
            reader=self.name,
            files=files,
            kind="volume",
            part=RESAMPLED if is_sheared else "",
            is_resampled=is_sheared,
            nifti_form=self.grid.nifti,
        )

    def read(self, item: Item) -> Image:
        """Read a volume (1, I, J, K) in its stored type, with scl_slope and scl_inter as slope and intercept.

        Raises:
            GeometryError: If the file has no orientation (both sform_code and qform_code are 0).
            UnsupportedError: If the file contains more than one volume, or colors.
        """
        source = _open(item.files[0])
        voxels, affine = _stored(source), _affine(source, item.nifti_form)
        if item.is_resampled:
            voxels, affine = straightened(voxels, affine, "linear")
        voxels, affine = to_ras(voxels[None], affine)
        slope, intercept = float(source.dataobj.slope), float(source.dataobj.inter)
        return Image(voxels, "volume", item.modality, affine, slope=slope, intercept=intercept)

    def extent(self, item: Item) -> Extent:
        """Return voxels and spacing along R, A and S."""
        source = _open(item.files[0])
        shape, spacing_mm = ras_extent(_shape(source), _affine(source, item.nifti_form))
        return Extent(shape, bits=8 * source.header.get_data_dtype().itemsize, spacing_mm=spacing_mm)

    def texts(self, path: Path) -> Iterator[FileText]:
        """Yield the texts of a NIfTI or Analyze header and its extensions; separate voxel files contain no text."""
        is_voxels = path.name.lower().removesuffix(".gz").endswith(".img")
        return iter(()) if is_voxels else nifti_texts(path)

    def read_mask(self, path: Path, image: Item | None = None) -> LabelMap:
        """Read the labels of a file (I, J, K), rescaled if the header defines a scaling.

        Raises:
            DataError: If a label is not a whole number.
        """
        source = _open(path)
        labels = _stored(source)
        slope, intercept = float(source.dataobj.slope), float(source.dataobj.inter)
        if (slope, intercept) != (1.0, 0.0):
            labels = labels * slope + intercept
        affine = _affine(source, None if image is None else image.nifti_form)
        if image is not None and image.is_resampled:
            labels, affine = straightened(as_labels(labels), affine, "nearest")
        return label_volume(labels, affine)


def source_affine(path: Path, form: NiftiForm | None = None) -> Affine:
    """Return the affine from stored (i, j, k) to RAS+ mm, converted from the unit of the file.

    `form` selects the sform or the qform if both contradict each other.
    """
    return _affine(_open(path), form)


def _open(path: Path) -> Nifti1Image:
    import nibabel as nib

    if path.suffix.lower() == ".hdr":
        named_beside(path, _voxels_of(path).name)
    source = nib.load(path)
    if not isinstance(source, nib.Nifti1Pair):
        raise UnsupportedError(_what(source))
    header, shape = source.header, source.shape
    if int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
        raise GeometryError("sform_code and qform_code are both 0, so the orientation is unknown; set one of them")
    if any(n > 1 for n in shape[3:]):
        raise UnsupportedError(f"a NIfTI of shape {shape}; expected one volume: split it along its last axes")
    if min(shape, default=0) < 1:
        raise GeometryError(f"a NIfTI of shape {shape}; expected at least one voxel along each axis")
    stored = header.get_data_dtype()
    if stored.fields is not None or stored.kind not in "iuf":
        raise UnsupportedError("a NIfTI of colors or complex numbers; expected one real number per voxel")
    claimed = int(np.prod(shape, dtype=np.float64)) * stored.itemsize
    voxels = Path(source.file_map["image"].filename)
    check_size = check_volume if voxels.suffix == ".gz" else check_stored
    check_size(claimed, voxels.stat().st_size)
    if voxels.suffix != ".gz":
        _check_no_more(claimed, voxels.stat().st_size - int(source.dataobj.offset))
    return source


def _check_no_more(promised: int, held: int) -> None:
    if held > promised:
        raise UnreadableError(
            f"the header declares {promised} bytes of voxels, the file contains {held}; the position of the voxels "
            "in them is unknown"
        )


def _what(source: Any) -> str:
    from nibabel.analyze import AnalyzeImage
    from nibabel.cifti2 import Cifti2Image

    if isinstance(source, Cifti2Image):
        return "a CIFTI-2 file, which contains values of brain surfaces and regions; expected a volume on a grid"
    if isinstance(source, AnalyzeImage):
        return "an Analyze image, which does not distinguish left from right; convert it to NIfTI"
    return f"an image that nibabel reads as {type(source).__name__}; expected NIfTI"


def _voxels_of(header: Path) -> Path:
    """Return the .img file of a .hdr file; the case of the suffix may differ."""
    beside = (header.with_suffix(suffix) for suffix in (".img", ".IMG"))
    return next((voxels for voxels in beside if voxels.exists()), header.with_suffix(".img"))


def _stored(source: Nifti1Image) -> Num[Array, "i j k"]:
    voxels = np.asanyarray(source.dataobj.get_unscaled())
    voxels = voxels.reshape(_shape(source))
    if voxels.dtype.kind == "f" and voxels.dtype.itemsize < 4:
        return voxels.astype(np.float32)
    return narrowed(voxels.astype(voxels.dtype.newbyteorder("="), copy=voxels.dtype.itemsize <= 4))


def _shape(source: Nifti1Image) -> tuple[int, int, int]:
    i, j, k = (*source.shape[:3], 1, 1)[:3]
    return i, j, k


def _affine(source: Nifti1Image, form: NiftiForm | None = None) -> Affine:
    forms = _forms(source)
    if form is not None and form in forms:
        return forms[form]
    if len(forms) == 2 and _contradict(source, forms):
        raise GeometryError(
            f"sform and qform are {apart(forms['sform'], forms['qform'], _shape(source)):.1f} voxels apart, "
            "and it is unknown which is right; geometry.nifti=sform or geometry.nifti=qform decides"
        )
    return next(iter(forms.values()))


def _has_two_grids(source: Nifti1Image) -> bool:
    """Return whether sform and qform refer to different spaces, such as those of the scanner and of a template."""
    forms = _forms(source)
    return len(forms) == 2 and apart(forms["sform"], forms["qform"], _shape(source)) > APART_VOXELS


def _contradict(source: Nifti1Image, forms: Mapping[NiftiForm, Affine]) -> bool:
    """Return whether sform and qform contradict each other.

    They do if they refer to the same space but differ, or if one mirrors the other.
    """
    sform, qform = forms["sform"], forms["qform"]
    is_one_space = int(source.header["sform_code"]) == int(source.header["qform_code"])
    is_mirrored = np.linalg.det(sform.matrix[:3, :3]) * np.linalg.det(qform.matrix[:3, :3]) < 0
    return bool(is_one_space or is_mirrored) and apart(sform, qform, _shape(source)) > APART_VOXELS


def _forms(source: Nifti1Image) -> Mapping[NiftiForm, Affine]:
    """Return the usable affines among sform and qform, the sform first.

    An affine is usable if its code is above 0 and its matrix is neither zero nor invalid.
    """
    from nibabel.spatialimages import HeaderDataError

    forms: dict[NiftiForm, Affine] = {}
    if int(source.header["sform_code"]) > 0 and source.header.get_sform()[:3, :3].any():
        forms["sform"] = _in_mm(source, source.header.get_sform())
    if int(source.header["qform_code"]) > 0:
        try:
            forms["qform"] = _in_mm(source, source.header.get_qform())
        except (HeaderDataError, GeometryError):
            if not forms:
                raise GeometryError(
                    "the qform is not a rotation and no other form is usable, so the orientation is unknown; set the "
                    "sform"
                ) from None
    if not forms:
        raise GeometryError("the sform is zero and qform_code is 0, so the orientation is unknown; set one of them")
    return forms


def _in_mm(source: Nifti1Image, matrix: Num[Array, "4 4"]) -> Affine:
    scale = MM_PER_UNIT.get(int(source.header["xyzt_units"]) & 7, 1.0)
    return Affine(np.diag([scale, scale, scale, 1.0]) @ matrix)


READER = Nifti()
