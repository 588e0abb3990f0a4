"""DICOM reader: volumes if slice positions are known, 2D images for all other instances and frames.

- A volume consists of the planes of one series on one regular grid: slices, frames of a multi-frame instance, or tiles
  of a Siemens mosaic. Planes are ordered along the slice normal (the cross product of row and column directions, LPS).
  The voxels are then reordered to RAS+, so the slice axis is not always the last axis and may be reversed;
  `source_affine` returns the grid of columns, rows and slices in file order, for writing results back.
- A series with several times, echoes, b-values, stacks or similar gives one item for each of them; `Item.part` names
  it.
- A CT, MR or PET series of one slice, a localizer, a radiograph, a secondary capture, and every frame of a cine or of
  another multi-frame instance without positions is a 2D image without affine; it has `mpp` if its pixels are square and
  their size is known. Frames of CT, MR, PET, X-ray 3D, breast tomosynthesis and ultrasound volumes must have a
  position: frames without one are refused. Frames of other classes are counted in the log of ingest and on the card.
- Planes that do not form a regular grid are refused, unless the reader is set to resample them or to keep them as 2D
  images.
- Segmentations, reports, plans, directories and other objects that are not images are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jaxtyping import Num
from numpy import ndarray as Array

from medvit.dicom.file import begins_as_dicom
from medvit.dicom.header import Header
from medvit.dicom.pixels import Frame, in_unit
from medvit.dicom.suv import SUV_UNIT
from medvit.errors import GeometryError, MedvitError, UnreadableError
from medvit.files.guard import decoding, refusal
from medvit.files.head import FileHead
from medvit.geometry import Affine, ras_extent, stacked_to_ras, to_ras
from medvit.readers.dicom_texts import file_texts
from medvit.readers.options import OPTIONS
from medvit.records import Extent, FileText, Identity, Item, Kind, Refusal, Values, frame_part
from medvit.series.agreement import check_values, common_padding, real_values
from medvit.series.duplicates import Instance, check_copies
from medvit.series.planes import hash_pixels, read_pixels, read_planes
from medvit.series.resampling import RESAMPLED, Geometry, layout, resample
from medvit.series.splitting import Subseries, parts, separate
from medvit.series.volume import arrange, group
from medvit.types import Image

SUFFIXES = (".dcm", ".dicom", ".ima")
IN_TRANSDUCER = "in the frame of the transducer"


@dataclass(frozen=True)
class Dicom:
    """Reader of DICOM Part 10 files and data sets without preamble (PS3.10).

    `geometry` sets the handling of irregular series.
    """

    geometry: Geometry = "refuse"
    name: str = "dicom"
    header_type: type = Header

    def sniff(self, path: Path, head: bytes) -> bool:
        """Return whether the file begins as a DICOM file does, or has a DICOM suffix."""
        return begins_as_dicom(head) or path.suffix.lower() in SUFFIXES

    def with_geometry(self, geometry: Geometry) -> Dicom:
        """Return the same reader with another handling of irregular series."""
        return replace(self, geometry=geometry)

    def find(self, files: Sequence[Path]) -> Iterator[Item | Refusal]:
        """Yield an item for each volume or image, and a refusal for everything else.

        Irregular series and instances that are not images are refused. Pixels are read only from instances that may be
        copies of one another.
        """
        planes: list[Header] = []
        for file in files:
            seen = self.look(file)
            if isinstance(seen, Refusal):
                yield seen
            else:
                planes += seen
        yield from self.join(planes)

    def look(self, path: Path, beginning: FileHead | None = None) -> tuple[Header, ...] | Refusal:
        """Return a header for every plane of a file, or a refusal if the file contains no usable image.

        `beginning` has the first bytes of the file, which are read if it is not given.
        """
        try:
            with decoding("the DICOM header"):
                return read_planes(path, beginning)
        except MedvitError as error:
            return refusal((path,), error)

    def join(self, headers: Sequence[Header]) -> Iterator[Item | Refusal]:
        """Yield the volumes and images that the planes with these headers form, and the refusals."""
        for series in group(headers):
            yield from self._items(series)

    def read(self, item: Item) -> Image:
        """Read a volume (1, I, J, K) in RAS+ order or a 2D image (C, H, W), in the stored type.

        Slices of one series with different types or rescale values, as in PET, are returned as float32 in their real
        unit.

        Raises:
            GeometryError: If the slices do not form one regular grid.
            ConflictError: If the values of the slices have different meanings.
            UnreadableError: If pixels cannot be decoded.
        """
        planes, decoded = _read_pixels(item)
        if item.kind == "volume":
            check_values(decoded)
        frames = in_unit(decoded, item.values)
        wish = OPTIONS.get(item.values, "")
        fallback = wish if wish and not all(_is_as_wished(frame, item.values) for frame in frames) else ""
        if item.kind == "volume":
            image = _resampled(planes, frames, item) if item.is_resampled else _volume(planes, frames, item)
            return replace(image, fallback=fallback, mapping=frames[0].mapping, offered=frames[0].offered)
        frame = frames[0]
        return Image(
            frame.pixels,
            "image",
            item.modality,
            mpp=planes[0].mpp,
            slope=frame.slope,
            intercept=frame.intercept,
            unit=frame.unit,
            padding=frame.padding,
            fallback=fallback,
            mapping=frame.mapping,
            offered=frame.offered,
        )

    def extent(self, item: Item) -> Extent:
        """Return the size (H, W) of an image, or voxels and spacing along R, A and S of a volume."""
        planes = _planes(item)
        first = planes[0]
        if item.kind == "image":
            return Extent((first.rows, first.columns), first.samples, first.bits, mpp=first.mpp)
        affine = layout(planes).affine if item.is_resampled else arrange(planes).affine
        shape, spacing_mm = ras_extent((first.columns, first.rows, len(planes)), affine)
        return Extent(shape, bits=first.bits, spacing_mm=spacing_mm)

    def texts(self, path: Path) -> Iterator[FileText]:
        """Yield all texts of a file.

        The texts are from elements at any depth, the preamble, and comments in compressed pixels.
        """
        return file_texts(path)

    def _items(self, series: Sequence[Header]) -> Iterator[Item | Refusal]:
        instances = _by_file(series)
        try:
            with decoding("an instance that may be a copy of another"):
                checked = check_copies(instances, hash_pixels)
        except MedvitError as error:
            yield refusal(sorted({plane.file for plane in series}), error)
            return
        for copy in checked.copies:
            yield Refusal((copy[0].file,), "duplicate", "a second copy of an instance of its series")
        for damaged in checked.damaged:
            yield Refusal(
                (damaged[0].file,),
                UnreadableError.code,
                "the pixels of a copy of an instance cannot be decoded; another copy, which can be, is used",
            )
        for namesakes in checked.namesakes:
            yield _unclear(
                sorted(instance[0].file for instance in namesakes),
                f"{len(namesakes)} instances have the same (0008,0018) SOPInstanceUID but differ in pixels or header",
            )
        of = Items(self.name, {instance[0].file: len(instance) for instance in instances})
        kept = [plane for instance in checked.kept for plane in instance]
        slices = [plane for plane in kept if plane.is_slice]
        if checked.conflicts:
            yield _conflict(checked.conflicts, slices)
            slices = []
        for plane in kept:
            if not plane.is_slice:
                yield of.image(plane)
        yield from self._volumes(slices, of)

    def _volumes(self, slices: Sequence[Header], of: Items) -> Iterator[Item | Refusal]:
        if len(slices) == 1:
            yield of.image(slices[0])
        if len(slices) < 2:
            return
        try:
            separated = separate(slices)
        except GeometryError as error:
            yield from self._irregular(Subseries(tuple(slices)), error, of)
            return
        yield from (of.image(plane, "scout") for plane in separated.scouts)
        for n, stack in enumerate(separated.stacks, 1):
            name = f"stack {n} of {len(separated.stacks)}" if len(separated.stacks) > 1 else ""
            try:
                found = [part.named(name) if name else part for part in parts(stack)]
            except GeometryError as error:
                yield from self._irregular(Subseries(stack), error, of)
                continue
            for part in found:
                yield from self._part(part, of)

    def _part(self, part: Subseries, of: Items) -> Iterator[Item | Refusal]:
        if len(part.planes) == 1:
            yield of.image(part.planes[0], part.name)
            return
        try:
            part.check_whole()
            yield of.volume(arrange(part.planes).headers, part.name)
        except GeometryError as error:
            yield from self._irregular(part, error, of)

    def _irregular(self, part: Subseries, error: GeometryError, of: Items) -> Iterator[Item | Refusal]:
        if self.geometry == "slices":
            total = len(part.planes)
            ordered = sorted(part.planes, key=lambda plane: (plane.number, plane.file, plane.frame or 0))
            yield from (of.image(p, part.named(f"slice {n} of {total}").name) for n, p in enumerate(ordered, 1))
            return
        if self.geometry == "resample":
            try:
                grid = layout(part.planes)
            except GeometryError as hopeless:
                error = hopeless
            else:
                planes = [part.planes[n] for n in grid.order]
                yield replace(of.volume(planes, part.named(RESAMPLED).name), is_resampled=True)
                return
        reason = f"{part.name}: {error}" if part.name else str(error)
        yield refusal(sorted({plane.file for plane in part.planes}), GeometryError(reason))


@dataclass(frozen=True)
class Items:
    """Factory that makes items from planes; `num_frames` is the number of planes in each file of the series."""

    reader: str
    num_frames: Mapping[Path, int]

    def image(self, plane: Header, part: str = "") -> Item:
        """Return the item of a single plane, which is a 2D image.

        For a frame of a multi-frame file, the name of the part contains the number of the frame.
        """
        if not part and plane.frame is not None and self.num_frames[plane.file] > 1:
            part = frame_part(plane.frame, self.num_frames[plane.file])
        return self._item([plane], "image", part)

    def volume(self, planes: Sequence[Header], part: str = "") -> Item:
        """Return planes in the given order as an item of a volume."""
        if planes[0].in_transducer:
            part = f"{part}, {IN_TRANSDUCER}".lstrip(", ")
        return self._item(planes, "volume", part)

    def _item(self, planes: Sequence[Header], kind: Kind, part: str) -> Item:
        first, issuers = planes[0], (plane.issuer for plane in planes)
        files = {plane.file: None for plane in planes}
        numbers = {file: n for n, file in enumerate(files)}
        frames = tuple((numbers[plane.file], plane.frame) for plane in planes if plane.frame is not None)
        # The first frame identifies an item among those of its files, since a frame belongs to one item.
        is_whole = len(planes) == sum(self.num_frames[file] for file in files)
        return Item(
            reader=self.reader,
            files=tuple(files),
            kind=kind,
            modality=first.modality,
            index=None if is_whole else first.frame,
            identity=Identity(
                first.patient,
                first.study,
                first.series,
                next(filter(None, issuers), ""),
                institution=first.institution,
                study_date=first.study_date,
            ),
            description=first.description,
            frames=frames if len(frames) == len(planes) else (),
            part=part,
            headers=() if frames else tuple(planes),
        )


def source_affine(item: Item) -> Affine:
    """Return the affine from (column, row, plane) in file order to RAS+ mm; planes are in the order of the item.

    `geometry.like(mask, image.affine, source_affine(item))` reorders a label map to columns, rows and planes.

    Raises:
        GeometryError: If the planes do not form one regular grid.
    """
    with decoding("the DICOM header"):
        return arrange(_planes(item)).affine


def _planes(item: Item) -> Sequence[Header]:
    """Return the headers of an item's planes, in its order."""
    if item.headers:
        return item.headers
    planes = [read_planes(file) for file in item.files]
    places = item.frames or tuple((n, 0) for n in range(len(planes)))
    return [planes[number][frame] for number, frame in places]


def _by_file(series: Sequence[Header]) -> list[Instance]:
    instances: dict[Path, list[Header]] = {}
    for plane in series:
        instances.setdefault(plane.file, []).append(plane)
    return [tuple(planes) for planes in instances.values()]


def _conflict(conflicts: Sequence[Instance], others: Sequence[Header]) -> Refusal:
    files = sorted({*(instance[0].file for instance in conflicts), *(plane.file for plane in others)})
    with_it = f"; the other {len(files) - len(conflicts)} of its series are excluded with them" if others else ""
    what = f"{len(conflicts)} instances have the same position and number as another but different pixels"
    return _unclear(files, what + with_it)


def _unclear(files: Sequence[Path], what: str) -> Refusal:
    return Refusal(tuple(files), "conflict", f"{what}: it is unknown which are right; remove the wrong ones")


def _read_pixels(item: Item) -> tuple[tuple[Header, ...], tuple[Frame, ...]]:
    """Read the planes of an item with their pixels.

    A DICOM real-world value mapping that is used by default is not applied if it does not cover all pixels.
    """
    planes, frames = zip(*read_pixels(item), strict=True)
    if any(frame.num_unmapped for frame in frames):
        planes, frames = zip(*read_pixels(replace(item, values="unmapped")), strict=True)
    return planes, frames


def _is_as_wished(frame: Frame, values: Values) -> bool:
    if values == "SUVbw":
        return frame.unit == SUV_UNIT
    return frame.facts.scaling == {"displayed": "displayed", "mapped": "mapping"}[values]


def _uniform(frames: Sequence[Frame]) -> tuple[list[Num[Array, "h w"]], Frame]:
    """Return the slices (rows, columns) in one common type, and one frame that describes the values of all."""
    first = frames[0]
    if len({(frame.pixels.dtype, frame.slope, frame.intercept) for frame in frames}) > 1:
        return real_values(frames)
    return [frame.pixels[0] for frame in frames], replace(first, padding=common_padding(frames))


def _volume(planes: Sequence[Header], frames: Sequence[Frame], item: Item) -> Image:
    stack = arrange(planes)
    by_plane = {(plane.file, plane.frame): frame for plane, frame in zip(planes, frames, strict=True)}
    slices, meaning = _uniform([by_plane[plane.file, plane.frame] for plane in stack.headers])
    # Rows run along the second voxel axis: (row, column) per slice -> (column, row, slice).
    return _image(*stacked_to_ras([one.T for one in slices], stack.affine), meaning, item)


def _resampled(planes: Sequence[Header], frames: Sequence[Frame], item: Item) -> Image:
    grid = layout(planes)
    slices, meaning = _uniform([frames[n] for n in grid.order])
    turned, affine = to_ras(resample(slices, grid, meaning.padding), grid.affine)
    return _image(turned, affine, meaning, item)


def _image(voxels: Num[Array, "i j k"], affine: Affine, meaning: Frame, item: Item) -> Image:
    return Image(
        voxels[None],
        "volume",
        item.modality,
        affine,
        slope=meaning.slope,
        intercept=meaning.intercept,
        unit=meaning.unit,
        padding=meaning.padding,
    )


READER = Dicom()
