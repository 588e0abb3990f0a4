"""Label maps in separate files: pairing with their images by name, and the check that both have the same grid.

Pairs are formed by name, in this order:

- `images/X.nii.gz` and `labels/X.nii.gz`: a folder named as in `LABEL_FOLDERS` next to a folder of images, at any
  depth, also `imagesTr` and `labelsTr`;
- `X.png` and `X_mask.png`: a suffix of `LABEL_SUFFIXES`, in the same folder or in such a pair of folders;
- `imagesTr/X_0000.nii.gz` and `labelsTr/X.nii.gz`: channels of nnU-Net, which share one label map.

If the user gives NAME as the folder of label maps, `NAME/X.png` belongs to `X.png` in any folder next to NAME. The
meaning of label-map values is decided over a whole source (`medvit.ingest.mask_meaning`), never from one file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
from jaxtyping import Int, Num
from numpy import ndarray as Array

from medvit.errors import DataError, GeometryError, UnsupportedError
from medvit.geometry import Affine, to_ras
from medvit.records import Refusal
from medvit.types import Image

GRID_TOLERANCE_MM = 1e-2
"""Largest distance between the corners of a label map and of its image for which both count as being on one grid."""

ORPHAN = "label_map"
"""Refusal code of a label map without an image, which is set aside and does not count as a failure."""
FIELD = (
    "in a folder named mask, and the label maps are in another one; scanning.field_of_view_folder=mask uses these as "
    "fields of view, scanning.mask_folder=mask as label maps"
)
OTHER = "named as a label map, but scanning.mask_folder names others; rename or remove it"

LABEL_FOLDERS = (
    "label",
    "labels",
    "masks",
    "segmentation",
    "segmentations",
    "1st_manual",
    "gt",
    "gts",
    "ground_truth",
    "ground_truths",
    "ground-truth",
    "groundtruth",
    "annotation",
    "annotations",
)
"""Names of folders with label maps for the images in a sibling folder."""
FIELD_FOLDERS = ("mask",)
"""Names of folders that contain label maps only if the source has none of `LABEL_FOLDERS`.

In DRIVE, for example, `mask` contains fields of view.
"""

ROUNDING = 1e-3
"""Largest distance of a label from a whole number: programs that scale labels write 0.9999999997 for 1."""

_LABEL_FOLDER = re.compile(rf"({'|'.join(LABEL_FOLDERS)})(tr|ts)?", re.IGNORECASE)
_FIELD_FOLDER = re.compile(rf"({'|'.join(FIELD_FOLDERS)})(tr|ts)?", re.IGNORECASE)
_IMAGE_FOLDER = re.compile(r"(images?|imgs?)(tr|ts)?", re.IGNORECASE)

LABEL_SUFFIXES = ("seg", "segmentation", "mask", "masks", "label", "labels", "labelmap", "manual1")
"""Suffixes of the name of a label map, after `_` or `-`."""

_LABEL_STEM = re.compile(rf"(.+)[_-](?:{'|'.join(LABEL_SUFFIXES)})(?:[_-]\d+)?", re.IGNORECASE)
_IMAGE_STEM = re.compile(r"(.+)[_-](?:\d{4}|image|img|training|test)", re.IGNORECASE)

_Key = tuple[str, str]


@dataclass(frozen=True)
class LabelMap:
    """Integer labels (*S); label maps of volumes are in RAS+ order and have an affine."""

    labels: Int[Array, "*s"]
    affine: Affine | None = None


@dataclass(frozen=True)
class Pairing:
    """Pairs of images and label maps, and the label maps without an image."""

    masks: dict[Path, Path]
    refused: tuple[Refusal, ...]

    @property
    def label_maps(self) -> frozenset[Path]:
        """Every file that is a label map, paired or refused."""
        return frozenset(self.masks.values()).union(*(refusal.files for refusal in self.refused))


def pair_masks(files: Sequence[Path], folders: Sequence[str] = ()) -> Pairing:
    """Pair images with label maps by their file names, without opening the files.

    A file named like a label map but without an image is refused, as is a second label map of the same image. A folder
    with the name of a label-map folder contains ordinary images if no folder of images is next to it. With `folders`,
    only folders of these names contain label maps, and other files named like label maps are ignored.

    Raises:
        DataError: If none of `folders` contains a file.
    """
    in_folders = {_key(file, _IMAGE_FOLDER)[0] for file in files if _folder_index(file, _IMAGE_FOLDER) is not None}
    of_files = {file: _label_keys(file, in_folders) for file in files}
    aside: dict[Path, str] = {}
    named = named_folders(folders) if folders else _FIELD_FOLDER
    chosen = {file: keys_in_folder(file, named, in_folders if not folders else None) for file in files}
    chosen = {file: keys for file, keys in chosen.items() if keys}
    if folders and not chosen:
        raise without_files(folders, "mask_folder", "label maps")
    if folders:
        aside = {file: OTHER for file, keys in of_files.items() if keys and file not in chosen}
        of_files = chosen
    elif any(_lies_in_label_folder(file, in_folders) for file in files):
        aside = {file: FIELD for file in chosen if not of_files[file]}
    else:
        of_files |= {file: keys + of_files[file] for file, keys in chosen.items()}
    labels: dict[_Key, list[Path]] = {}
    images: list[Path] = []
    for file in files:
        keys = of_files.get(file, [])
        if not keys and file not in aside:
            images.append(file)
        for key in keys:
            labels.setdefault(key, []).append(file)
    masks = {}
    for image in images:
        keys = keys_beside(image) if folders else list(_image_keys(image))
        label_map = next((labels[key][0] for key in keys if key in labels), None)
        if label_map is not None:
            masks[image] = label_map
    taken = set(masks.values())
    unpaired = {file: None for group in labels.values() for file in group if file not in taken}
    seconds = {file for group in labels.values() if group[0] in taken for file in group[1:]}
    refused = [_refuse(file, is_second=file in seconds) for file in unpaired]
    return Pairing(masks, (*refused, *(Refusal((file,), ORPHAN, reason) for file, reason in aside.items())))


def as_labels(voxels: Num[Array, "*s"]) -> Int[Array, "*s"]:
    """Return labels in the smallest sufficient integer type; values within `ROUNDING` of a whole number are rounded.

    Raises:
        DataError: If a label is not a whole number.
    """
    if voxels.dtype == bool:
        return voxels.astype(np.uint8)
    if not np.issubdtype(voxels.dtype, np.integer):
        rounded = np.round(voxels)
        if not np.isfinite(voxels).all() or (abs(voxels - rounded) > ROUNDING).any():
            raise DataError("the label map contains values that are not whole numbers; expected class numbers")
        voxels = rounded.astype(np.int64)
    low, high = (int(voxels.min()), int(voxels.max())) if voxels.size else (0, 0)
    needed = np.min_scalar_type(high) if low >= 0 else np.min_scalar_type(min(low, -high - 1))
    return voxels.astype(needed)


def label_volume(voxels: Num[Array, "i j k"], affine: Affine) -> LabelMap:
    """Return a label map in RAS+ order, from voxels in any axis order.

    Raises:
        DataError: If a label is not a whole number.
    """
    turned, turned_affine = to_ras(as_labels(voxels), affine)
    return LabelMap(turned, turned_affine)


def label_image(pixels: Num[Array, "c h w"]) -> LabelMap:
    """Return a label map (H, W) from an image; gray levels are the labels.

    Raises:
        UnsupportedError: If the image is in color.
    """
    if (pixels != pixels[:1]).any():
        raise UnsupportedError("the label map is in color; expected one class number per pixel")
    return LabelMap(as_labels(pixels[0]))


def attach(image: Image, label_map: LabelMap) -> Image:
    """Return the image with its label map attached.

    Raises:
        GeometryError: If image and label map are not on the same grid, within `GRID_TOLERANCE_MM`.
    """
    check_one_grid(image, label_map)
    return replace(image, mask=label_map.labels)


def check_one_grid(image: Image, label_map: LabelMap, noun: str = "label map") -> None:
    """Check that an image and its label map are on the same grid; `noun` names the label map in messages.

    Raises:
        GeometryError: If they are not, within `GRID_TOLERANCE_MM`.
    """
    shape = image.pixels.shape[1:]
    if label_map.labels.shape != shape:
        raise GeometryError(f"the {noun} has shape {label_map.labels.shape}, its image {shape}; expected one grid")
    if image.affine is not None and label_map.affine is not None:
        corners = np.array(list(product(*((0, n - 1) for n in shape))))
        apart_mm = float(np.abs(image.affine(corners) - label_map.affine(corners)).max())
        if apart_mm > GRID_TOLERANCE_MM:
            raise GeometryError(
                f"the {noun} is {apart_mm:.3f} mm away from its image; expected one grid within {GRID_TOLERANCE_MM} mm"
            )


def _refuse(file: Path, *, is_second: bool) -> Refusal:
    if is_second:
        return Refusal((file,), DataError.code, "a second label map of one image; merge them into one")
    return Refusal((file,), ORPHAN, "named as a label map, but it has no image; rename or remove it")


def _stem(file: Path) -> str:
    name = file.name.removesuffix(".gz")
    return name.rpartition(".")[0] or name


def _folder_index(file: Path, pattern: re.Pattern[str]) -> int | None:
    parts = file.parts[:-1]
    return next((n for n in reversed(range(len(parts))) if pattern.fullmatch(parts[n])), None)


def _key(file: Path, pattern: re.Pattern[str], stem: str | None = None) -> _Key:
    index = _folder_index(file, pattern)
    parts = list(file.parts[:-1])
    if index is not None:
        match = pattern.fullmatch(parts[index])
        parts[index] = "*" + ((match and match[2]) or "").lower()
    return "/".join(parts), _stem(file) if stem is None else stem


def _label_keys(file: Path, in_folders: set[str]) -> list[_Key]:
    stem, suffixed = _stem(file), _LABEL_STEM.fullmatch(_stem(file))
    stems = [stem, suffixed[1]] if suffixed else [stem]
    if _key(file, _LABEL_FOLDER)[0] in in_folders:
        return [_key(file, _LABEL_FOLDER, stem) for stem in stems]
    return [(str(file.parent), suffixed[1])] if suffixed else []


def _lies_in_label_folder(file: Path, in_folders: set[str]) -> bool:
    return _folder_index(file, _LABEL_FOLDER) is not None and _key(file, _LABEL_FOLDER)[0] in in_folders


def named_folders(folders: Sequence[str]) -> re.Pattern[str]:
    """Return the pattern of the folder names that the user gave."""
    return re.compile(rf"({'|'.join(map(re.escape, folders))})()", re.IGNORECASE)


def without_files(folders: Sequence[str], option: str, contents: str) -> DataError:
    """Return the error for folders that the user gave in an option of scanning, and that no file is in."""
    return DataError(
        f"no file of the source is in a folder {' or '.join(map(repr, folders))}; scanning.{option} is the name of the "
        f"folders that contain {contents}"
    )


def keys_in_folder(
    file: Path, pattern: re.Pattern[str], in_folders: set[str] | None = None, stem: re.Pattern[str] = _LABEL_STEM
) -> list[_Key]:
    """Return the pairing keys of a label map in a folder of label maps; an empty list for any other file.

    With `in_folders`, only files next to one of these image folders have keys. The first group of `stem` is the name
    of the image in the name of the file.
    """
    suffixed = stem.fullmatch(_stem(file))
    stems = [_stem(file), suffixed[1]] if suffixed else [_stem(file)]
    keys = [_key(file, pattern, stem) for stem in stems]
    return keys if _folder_index(file, pattern) is not None and (in_folders is None or keys[0][0] in in_folders) else []


def keys_beside(file: Path) -> list[_Key]:
    """Return the pairing keys of an image, one for each folder level at which its label map may be.

    The folder of label maps may be next to the folder of the image, or next to any folder above it.
    """
    shortened, parts = _IMAGE_STEM.fullmatch(_stem(file)), file.parts[:-1]
    places = ["/".join((*parts[:n], "*", *parts[n + 1 :])) for n in reversed(range(len(parts)))]
    stems = (_stem(file), shortened[1]) if shortened else (_stem(file),)
    return [(place, stem) for stem in stems for place in places]


def _image_keys(file: Path) -> Iterator[_Key]:
    shortened = _IMAGE_STEM.fullmatch(_stem(file))
    for stem in (_stem(file), shortened[1]) if shortened else (_stem(file),):
        if _folder_index(file, _IMAGE_FOLDER) is not None:
            yield _key(file, _IMAGE_FOLDER, stem)
        yield str(file.parent), stem
