"""Reader of small images in MedMNIST format (Yang et al., Scientific Data 2023): one .npz with splits and labels."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Shaped
from numpy import ndarray as Array

from medvit.errors import DataError, MedvitError, UnsupportedError
from medvit.files.guard import decoding, refusal
from medvit.files.limits import check_volume
from medvit.measured import narrowed
from medvit.records import Extent, FileText, Identity, Item, Kind, Refusal, Split
from medvit.types import Image

MAX_IMAGES = 10_000_000
"""Largest number of images in one split; a damaged header may declare more than fits in memory."""

MAX_CHANNELS = 5
"""Largest length of a last axis that is taken as channels rather than as slices."""

SPLITS: tuple[Split, ...] = ("train", "val", "test")


_KEY = re.compile(r"(train|val|test)_(images|labels)")
"""Pattern of the names of the arrays that `find` reads."""


class Arrays:
    """Reader of images `(N, H, W)` or `(N, H, W, C)` and volumes `(N, I, J, K)`, stored under `train_images`, ....

    Labels `(N, 1)` under `train_labels`, ... become the label `label`; several columns become `label_0`, `label_1`, ...
    The geometry is unknown, so volumes have no affine; patients are unknown too.
    """

    name = "array"

    def sniff(self, path: Path, head: bytes) -> bool:
        """Return whether the file is named .npz."""
        return path.suffix.lower() == ".npz"

    def find(self, files: Sequence[Path]) -> Iterator[Item | Refusal]:
        """Yield an item per image of every split, in order."""
        for file in files:
            try:
                with decoding("the .npz"):
                    items = [item for split in SPLITS for item in self._items(file, split)]
                    if not items:
                        raise UnsupportedError(
                            "an .npz file has none of train_images, val_images and test_images; expected the MedMNIST "
                            "format"
                        )
            except MedvitError as error:
                yield refusal((file,), error)
            else:
                yield from items

    def read(self, item: Item) -> Image:
        """Read one image (C, H, W) or volume (1, I, J, K) in its stored type.

        Float64 is converted by `measured.narrowed`.
        """
        file, index = item.files[0], item.index
        if index is None or item.split is None:
            raise DataError(
                "an image of an .npz is identified by its split and index, which this item lacks; run the command again"
            )
        stored = narrowed(_images(file, file.stat().st_mtime_ns, item.split)[index])
        if item.kind == "volume":
            pixels = stored.reshape(1, *stored.shape[:3])
        else:
            pixels = stored[None] if stored.ndim == 2 else stored.transpose(2, 0, 1)
        return Image(np.ascontiguousarray(pixels), item.kind, item.modality)

    def extent(self, item: Item) -> Extent:
        """Return the size (H, W) or the number of voxels; the axes have no anatomical names."""
        shape = _shape(item.files[0], f"{item.split}_images") or ()
        if item.kind == "volume":
            return Extent(shape[1:4])
        return Extent(shape[1:3], 1 if len(shape) == 3 else shape[3])

    def texts(self, path: Path) -> Iterator[FileText]:
        """Yield the comment of the archive, the names of its arrays, and the texts in arrays of texts.

        Raises:
            UnsupportedError: If the archive contains Python objects, which are not loaded.
        """
        with zipfile.ZipFile(path) as archive:
            names = [entry.filename.removesuffix(".npy") for entry in archive.infolist()]
            yield FileText(archive.comment.decode("utf-8", "replace"), "the comment of an .npz")
        yield from (FileText(name, "a name in an .npz") for name in names if not _KEY.fullmatch(name))
        objects = 0
        with np.load(path, allow_pickle=False) as arrays:
            for name in names:
                try:
                    values = arrays[name] if not _KEY.fullmatch(name) else np.empty(0)
                except ValueError:  # what NumPy raises for an array of Python objects
                    objects += 1
                    continue
                if values.dtype.kind in "US":
                    yield from (FileText(_as_text(value), "a text in an .npz", "name") for value in values.ravel())
        if objects:
            raise UnsupportedError(
                f"{objects} arrays of the .npz contain Python objects, which are not loaded for safety; save plain "
                "arrays"
            )

    def _items(self, file: Path, split: Split) -> Iterator[Item]:
        shape = _shape(file, f"{split}_images")
        if shape is None:
            return
        kind = _kind(shape)
        labels = _labels(file, f"{split}_labels", shape[0])
        for index in range(shape[0]):
            yield Item(
                reader=self.name,
                files=(file,),
                kind=kind,
                index=index,
                identity=Identity(series=f"{file.stem}-{split}-{index}"),
                split=split,
                labels=labels[index],
            )


def _as_text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _shape(file: Path, key: str) -> tuple[int, ...] | None:
    with zipfile.ZipFile(file) as archive:
        if f"{key}.npy" not in archive.namelist():
            return None
        with archive.open(f"{key}.npy") as stream:
            version = np.lib.format.read_magic(stream)
            form = np.lib.format
            read_header = form.read_array_header_1_0 if version == (1, 0) else form.read_array_header_2_0
            shape, _, dtype = read_header(stream)
    if dtype.hasobject or dtype.kind not in "biuf":
        raise UnsupportedError(f"{key} is not numeric (type {dtype}); expected an array of numbers")
    if min(shape, default=0) < 1:
        raise UnsupportedError(f"{key} has shape {shape}; expected at least one image of at least one pixel")
    if shape[0] > MAX_IMAGES:
        raise UnsupportedError(f"{key} contains {shape[0]} images; expected at most {MAX_IMAGES}: split the file")
    check_volume(int(np.prod(shape, dtype=np.float64)) * dtype.itemsize, file.stat().st_size)
    return shape


def _kind(shape: tuple[int, ...]) -> Kind:
    if len(shape) == 3 or (len(shape) == 4 and shape[-1] in (1, 3)):
        return "image"
    if len(shape) == 4 and shape[-1] <= MAX_CHANNELS:
        raise UnsupportedError(
            f"images of shape {shape}, where the last axis may be channels or slices; "
            "expected (N, H, W), (N, H, W, 3), or volumes (N, I, J, K, 1)"
        )
    if len(shape) == 4 or (len(shape) == 5 and shape[-1] == 1):
        return "volume"
    raise UnsupportedError(f"images of shape {shape}; expected (N, H, W), (N, H, W, 3) or (N, I, J, K)")


def _labels(file: Path, key: str, num_images: int) -> Sequence[Mapping[str, str]]:
    if _shape(file, key) is None:
        return [{}] * num_images
    with np.load(file, allow_pickle=False) as arrays:
        labels = arrays[key]
    if labels.shape[:1] != (num_images,) or labels.dtype.kind not in "biu":
        raise DataError(f"{key} has shape {labels.shape} and type {labels.dtype}; expected {num_images} whole numbers")
    columns = labels.reshape(num_images, -1)
    if columns.shape[1] == 1:
        return [{"label": str(int(row[0]))} for row in columns]
    return [{f"label_{n}": str(int(value)) for n, value in enumerate(row)} for row in columns]


@lru_cache(maxsize=2)
def _images(file: Path, modified_ns: int, split: Split) -> Shaped[Array, "n *s"]:
    with np.load(file, allow_pickle=False) as arrays:
        return cast("Shaped[Array, 'n *s']", arrays[f"{split}_images"])


READER = Arrays()
