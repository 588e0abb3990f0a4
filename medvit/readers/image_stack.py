"""Volumes from folders of 2D images, such as the B-scans of an OCT; the user gives the spacing, which is never guessed.

Slices are ordered by the last number in their file names. A gap in these numbers means a missing slice, so the volume
is refused.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import numpy as np
from jaxtyping import Num
from numpy import ndarray as Array
from pydantic import AfterValidator, model_validator

from medvit.config import Config, Count, Positive
from medvit.errors import DataError, GeometryError
from medvit.files.limits import check_allowed
from medvit.geometry import Affine, stacked_to_ras
from medvit.measured import narrowed_together
from medvit.readers.image import READER as PICTURES
from medvit.records import FileText, Item, Refusal
from medvit.types import Image

NAME = "stack"
SHOWN_NUMBERS = 3
_NUMBER = re.compile(r"\d+")


def _axes(text: str) -> str:
    if sorted("RAS"["LPI".find(letter)] if letter in "LPI" else letter for letter in text) != ["A", "R", "S"]:
        raise ValueError(f"expected one letter each of R/L, A/P and S/I, such as LPS; found {text!r}")
    return text


class StacksConfig(Config):
    """Geometry of volumes that are stored as folders of 2D images."""

    spacing_mm: tuple[Positive, Positive, Positive] | None = None
    """Distance in mm between neighboring images, between rows and between columns of a stack. A stack is a folder whose
    images form one volume, such as B-scans of OCT. Required if any `stacks` option is set.
    """
    axes: Annotated[str, AfterValidator(_axes)] = "LPS"
    """Anatomical directions in which the column number, row number and image number increase. LPS fits most OCT:
    columns increase toward the patient's left, rows toward posterior (with depth), and images toward superior. Use LPI
    if the first image is the uppermost.
    """
    num_slices: Count | None = None
    """Number of images in a complete stack. A stack with another number is refused. Unset: only gaps in the numbering
    are detected, not a missing last image.
    """

    @model_validator(mode="after")
    def _has_a_spacing(self) -> Self:
        if self.spacing_mm is None:
            raise ValueError(
                "image files store no spacing; give stacks.spacing_mm in millimeters, such as [0.24,0.0039,0.011]"
            )
        return self

    @property
    def described(self) -> str:
        """Return the geometry as text, for `Item.part`."""
        return f"pictures {' x '.join(f'{mm:g}' for mm in self.spacing_mm or ())} mm apart, {self.axes}, as given"


@dataclass(frozen=True)
class Slices:
    """Geometry of a stack of images and, if there are any, the label maps in the order of the images."""

    config: StacksConfig
    masks: tuple[Path, ...] = ()


class ImageStack:
    """Reader of volumes (1, I, J, K) made of 2D images. Its items are made by `stacked`, never from a single file."""

    name = NAME

    def sniff(self, path: Path, head: bytes) -> bool:
        """Return False: files remain 2D images until a config turns their folder into a volume."""
        return False

    def find(self, files: Sequence[Path]) -> Iterator[Item | Refusal]:
        """Yield nothing; `stacked` makes the items."""
        yield from ()

    def texts(self, path: Path) -> Iterator[FileText]:
        """Yield the texts of one image of the stack."""
        return PICTURES.texts(path)

    def read(self, item: Item) -> Image:
        """Read the volume in RAS+ order, in gray, with its label map.

        Raises:
            GeometryError: If the images differ in size or type.
            DataError: If an image cannot be read.
        """
        (known,) = item.headers
        scans: list[Num[Array, "c h w"]] = []
        for file in item.files:
            scans.append(PICTURES.stored(file))
            if len(scans) == 1:
                check_allowed(len(item.files) * scans[0].nbytes, sum(one.stat().st_size for one in item.files))
        voxels, affine = _laid(narrowed_together(_alike([_gray(scan) for scan in scans])), known.config)
        mask = None
        if known.masks:
            labels = [PICTURES.read_mask(file).labels for file in known.masks]
            mask, _ = _laid(_alike([one.astype(np.int32) for one in labels]), known.config)
            if mask.shape != voxels.shape:
                raise GeometryError(
                    f"the label maps of a stack have {mask.shape} voxels, its images {voxels.shape}; expected equal "
                    "shapes"
                )
            mask = mask.astype(np.min_scalar_type(int(mask.max(initial=0))))
        return Image(voxels[None], "volume", item.modality, affine, mask=mask)


def stacked(found: Iterable[Item | Refusal], config: StacksConfig | None) -> Iterator[Item | Refusal]:
    """Join the images of each folder into one volume; without a config, yield every item unchanged.

    Items that are not 2D images, and refusals, are yielded unchanged.
    """
    folders: dict[Path, list[Item]] = defaultdict(list)
    for one in found:
        if config is not None and isinstance(one, Item) and one.reader == PICTURES.name:
            folders[one.files[0].parent].append(one)
        else:
            yield one
    if config is not None:
        for items in folders.values():
            yield _stack(items, config)


def _stack(items: Sequence[Item], config: StacksConfig) -> Item | Refusal:
    files = tuple(item.files[0] for item in items)
    try:
        numbers = [_number(file) for file in files]
        _check_whole(numbers, config.num_slices)
        ordered = [items[index] for index in np.argsort(numbers)]
        masks = tuple(item.mask for item in ordered if item.mask is not None)
        if masks and len(masks) < len(items):
            raise GeometryError(
                f"{len(masks)} of {len(items)} images of a stack have a label map; expected all or none"
            )
    except DataError as error:
        return Refusal(files, error.code, str(error))
    paths = tuple(item.files[0] for item in ordered)
    return Item(NAME, paths, "volume", part=config.described, headers=(Slices(config, masks),))


def _number(file: Path) -> int:
    found = _NUMBER.findall(file.stem)
    if not found:
        raise GeometryError(
            "the file name of an image of a stack contains no number, so its position is unknown; number the files"
        )
    return int(found[-1])


def _check_whole(numbers: Sequence[int], num_slices: int | None) -> None:
    first, last = min(numbers), max(numbers)
    if len(set(numbers)) < len(numbers):
        raise GeometryError(
            f"several images of a stack have the same number, between {first} and {last}; expected distinct numbers"
        )
    missing = sorted(set(range(first, last + 1)) - set(numbers))
    if missing:
        shown = ", ".join(map(str, missing[:SHOWN_NUMBERS])) + (", ..." if len(missing) > SHOWN_NUMBERS else "")
        raise GeometryError(
            f"the pictures of a stack are numbered {first} to {last}, and {len(missing)} of them "
            f"{'is' if len(missing) == 1 else 'are'} missing ({shown}); expected one picture for each number"
        )
    if num_slices is not None and len(numbers) != num_slices:
        raise GeometryError(f"a stack has {len(numbers)} images; expected {num_slices}, as set by stacks.num_slices")
    if len(numbers) < 2:
        raise GeometryError("a stack has only one image; expected at least two images per folder")


def _gray(pixels: Array) -> Array:
    """Return the gray values (H, W) of an image with one channel, or with three equal channels."""
    if (pixels != pixels[:1]).any():
        raise DataError("an image of a stack is in color; expected gray B-scans or slices")
    return pixels[0]


def _alike(planes: Sequence[Array]) -> Sequence[Array]:
    kinds = {(plane.shape, plane.dtype.name) for plane in planes}
    if len(kinds) > 1:
        found = ", ".join(f"{'x'.join(map(str, shape))} {dtype}" for shape, dtype in sorted(kinds)[:SHOWN_NUMBERS])
        raise GeometryError(f"the images of a stack differ in size or type ({found}); expected one size and type")
    return planes


def _laid(planes: Sequence[Array], config: StacksConfig) -> tuple[Array, Affine]:
    assert config.spacing_mm is not None
    between, down, along = config.spacing_mm
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1.0
    for axis, (letter, step) in enumerate(zip(config.axes, (along, down, between), strict=True)):
        row = "RAS".find(letter)
        matrix[row if row >= 0 else "LPI".find(letter), axis] = step if row >= 0 else -step
    return stacked_to_ras([plane.T for plane in planes], Affine(matrix))


READER = ImageStack()
