"""DICOM: series of CT, MR and PET slices as volumes, all other single-frame instances as images.

- A volume is the slices of one series on one regular grid; `Item.files` ascend along the slice normal (the cross
  product of row and column directions, LPS). Its pixels are then turned to RAS+ order, so the slice axis need not
  be the last one, nor keep its direction; `source_affine` gives the grid of columns, rows and slices in file order, for
  what is written back.
- A CT, MR or PET series of one slice, a localizer, a radiograph, an ultrasound or a secondary capture is an image
  without affine, one an instance, with `mpp` where pixels are square and their size is said.
- Segmentations, reports, plans, directories and other objects that are no images are refused, and so are objects of
  many frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from medvit.errors import GeometryError, MedvitError
from medvit.geometry import Affine, to_ras
from medvit.readers.dicom_header import Header, begins_as_dicom, check, header_of, load, read_header
from medvit.readers.dicom_pixels import Frame, decode
from medvit.readers.refusals import decoding, refusal
from medvit.readers.series import arrange, group
from medvit.samples import Identity, Image, Item, Kind, Refusal

SUFFIXES = (".dcm", ".dicom", ".ima")


class Dicom:
    """DICOM Part 10 files and data sets without preamble (PS3.10)."""

    name = "dicom"
    header_type = Header

    def sniff(self, path: Path, head: bytes) -> bool:
        """Whether the file begins as DICOM or is named so."""
        return begins_as_dicom(head) or path.suffix.lower() in SUFFIXES

    def find(self, files: Sequence[Path]) -> Iterator[Item | Refusal]:
        """An item a volume or image; a refusal an instance that is no image, or a series of irregular geometry."""
        found = [self.look(file) for file in files]
        yield from (one for one in found if isinstance(one, Refusal))
        yield from self.join([one for one in found if isinstance(one, Header)])

    def look(self, path: Path) -> Header | Refusal:
        """The header of a file that holds an image."""
        try:
            with decoding("the DICOM header"):
                header = read_header(path)
                check(header)
        except MedvitError as error:
            return refusal((path,), error)
        return header

    def join(self, headers: Sequence[Header]) -> Iterator[Item | Refusal]:
        """Volumes and images of the series that these instances make, and the refusals."""
        for series in group(headers):
            yield from self._items(series)

    def read(self, item: Item) -> Image:
        """A volume (1, I, J, K) in RAS+ order or an image (C, H, W), in the stored type.

        Slices of one series that differ in type or rescale, as in PET, come as float32 in their real unit.

        Raises:
            GeometryError: If the slices do not make one regular grid.
            UnreadableError: If pixels cannot be decoded.
        """
        headers, frames = [], []
        for file in item.files:
            dataset = load(file)
            header = header_of(dataset, file)
            check(header)
            headers.append(header)
            frames.append(decode(dataset))
        if item.kind == "image":
            frame = frames[0]
            return Image(
                *(frame.pixels, "image", item.modality),
                mpp=headers[0].mpp,
                slope=frame.slope,
                intercept=frame.intercept,
                unit=frame.unit,
            )
        return _volume(headers, frames, item.modality)

    def _items(self, series: Sequence[Header]) -> Iterator[Item | Refusal]:
        slices, copies = _without_copies([header for header in series if header.is_slice])
        for header in copies:
            yield Refusal((header.file,), "duplicate", "a second copy of an instance already taken")
        singles = [header for header in series if not header.is_slice]
        if len(slices) == 1:
            singles, slices = [*slices, *singles], []
        for header in singles:
            yield self._item([header], "image")
        if slices:
            try:
                yield self._item(arrange(slices).headers, "volume")
            except GeometryError as error:
                yield refusal(sorted(header.file for header in slices), error)

    def _item(self, headers: Sequence[Header], kind: Kind) -> Item:
        first = headers[0]
        return Item(
            reader=self.name,
            files=tuple(header.file for header in headers),
            kind=kind,
            modality=first.modality,
            identity=Identity(first.patient, first.study, first.series),
            description=first.description,
        )


def source_affine(files: Sequence[Path]) -> Affine:
    """The grid of a volume as its files have it: (column, row, slice) to RAS+ mm, slices in the order of `Item.files`.

    `geometry.like(mask, image.affine, source_affine(item.files))` puts a mask back on columns, rows and slices.

    Raises:
        GeometryError: If the slices do not make one regular grid.
    """
    with decoding("the DICOM header"):
        return arrange([read_header(file) for file in files]).affine


def _without_copies(headers: Sequence[Header]) -> tuple[list[Header], list[Header]]:
    kept: dict[tuple[object, ...], Header] = {}
    copies = []
    for header in headers:
        key = (header.instance or header.file, header.position_mm, header.num_bytes)
        if key in kept:
            copies.append(header)
        else:
            kept[key] = header
    return list(kept.values()), copies


def _volume(headers: Sequence[Header], frames: Sequence[Frame], modality: str) -> Image:
    stack = arrange(headers)
    by_file = {header.file: frame for header, frame in zip(headers, frames, strict=True)}
    slices = [by_file[header.file] for header in stack.headers]
    first = slices[0]
    slope, intercept = first.slope, first.intercept
    if len({(frame.pixels.dtype, frame.slope, frame.intercept) for frame in slices}) > 1:
        slices = [Frame(frame.pixels.astype(np.float32) * frame.slope + frame.intercept) for frame in slices]
        slope, intercept = 1.0, 0.0
    # Rows run along the second voxel axis: (row, column) a slice -> (column, row, slice).
    voxels = np.stack([frame.pixels[0].T for frame in slices], axis=-1)
    turned, affine = to_ras(voxels[None], stack.affine)
    return Image(turned, "volume", modality, affine, slope=slope, intercept=intercept, unit=first.unit)


READER = Dicom()
