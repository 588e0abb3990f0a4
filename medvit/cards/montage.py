"""Section of a data card with images by class and split, and the outlines of their label maps.

Images are chosen by a hash of their pseudonyms, so the choice depends neither on their order nor on their content. The
number of images that are read and shown is limited, whatever the size of the dataset.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array
from PIL import Image as Pillow

from medvit.cards.variables import is_numeric
from medvit.dataset.manifest import Manifest
from medvit.dataset.thumbnails import axial, every_few, showable, thumbnail
from medvit.document import Block, Outside, Picture, PictureTable, Section
from medvit.document.colors import PALETTE, class_colors
from medvit.records import IGNORED, Row, Split, splits_of

TITLE = "Images by class and split"
SALT = "montage of the data card"
MAX_PICTURES = 72
"""Intended maximum number of pictures, unless the classes alone need more: each has at least one per split."""
PICTURES_A_CELL = 3
MAX_CLASSES = 12
"""Maximum number of classes of a label, or of label maps, that are shown."""
MAX_LABELS = 3
"""Maximum number of labels that are shown."""
LOOKED_AT = 40
"""Maximum number of label maps of a split that are read to find images of every class."""
SIDE, WIDTH = 224, 150
"""Longer side of a picture in pixels, and its width on the page."""
NUM_SHADES = 120
"""Number of colors of the image in a picture; the colors of the outlines are added."""
FOREGROUND = "label map"
"""Name of the only class of label maps without class names, whose values number the instances."""


@dataclass(frozen=True)
class _Choice:
    """Image to show: for a volume, one of its axial slices."""

    row: Row
    slice_index: int | None = None


@dataclass(frozen=True)
class _Lines:
    """Lines of a table: the choices, or a text in place of them, for each class and split."""

    head: str
    cells: Mapping[str, Mapping[Split, Sequence[_Choice] | str]]
    note: str = ""


def sections(manifest: Manifest) -> Iterator[Section]:
    """Yield the section: tables of pictures for label maps and labels, or else by modality.

    Raises:
        DataError: If the store lacks the pixels of an image that is shown.
    """
    shown = showable(manifest, manifest.rows)
    blocks: list[Block] = []
    if len(shown) < len(manifest):
        blocks.append(
            f"{len(manifest) - len(shown)} of {len(manifest)} images are not shown: they had text in their pixels "
            "(burned_in is mask or keep), or an earlier version of medvit did not record whether they had."
        )
    names = _classes(manifest)
    for number, lines in enumerate(_tables(manifest, shown, names)):
        blocks += [lines.note] if lines.note else []
        blocks.append(_table(manifest, lines, names, number))
        missing = [
            f"{name} ({', '.join(splits)})"
            for name, cells in lines.cells.items()
            if (splits := [split for split, cell in cells.items() if isinstance(cell, str)])
        ]
        if missing:
            blocks.append(Outside(f"Without a picture: {'; '.join(missing)}."))
    yield Section(TITLE, blocks)


def _classes(manifest: Manifest) -> Sequence[str]:
    """Return the names of the label-map values, also if the values number the instances; empty without label maps."""
    if not any(row.mask is not None for row in manifest):
        return ()
    return manifest.facts.mask_classes or ("background", FOREGROUND)


def _tables(manifest: Manifest, shown: Sequence[Row], names: Sequence[str]) -> list[_Lines]:
    labels = {key: each for key, each in manifest.facts.classes.items() if not is_numeric(each)}
    few = dict(list(labels.items())[:MAX_LABELS])
    splits = splits_of(manifest)
    num_lines = min(MAX_CLASSES, len(names[1:])) + sum(min(MAX_CLASSES, len(each)) for each in few.values())
    most = int(np.clip(MAX_PICTURES // (max(1, num_lines) * len(splits)), 1, PICTURES_A_CELL))
    order = {split: chosen_order([row for row in shown if row.split == split]) for split in splits}
    hidden = {split: sum(row.split == split for row in manifest) > len(order[split]) for split in splits}
    tables = []
    if names:
        tables.append(_of_label_maps(manifest, order, names, most))
    for key, each in few.items():
        counts = Counter(row.labels[key] for row in manifest if key in row.labels)
        most_frequent = set(sorted(each, key=lambda name: -counts[name])[:MAX_CLASSES])
        frequent = [name for name in each if name in most_frequent]
        groups = {name: {s: [r for r in order[s] if r.labels.get(key) == name] for s in splits} for name in frequent}
        rest = f"The {MAX_CLASSES} most frequent of {len(each)} classes are shown." if len(each) > MAX_CLASSES else ""
        tables.append(_Lines(key, _cells(manifest, groups, hidden, most), rest))
    if not tables:
        kinds = sorted({(row.kind, row.modality) for row in manifest})[:MAX_CLASSES]
        groups = {
            f"{kind}s, {modality or 'unknown modality'}": {
                s: [row for row in order[s] if (row.kind, row.modality) == (kind, modality)] for s in splits
            }
            for kind, modality in kinds
        }
        tables.append(_Lines("", _cells(manifest, groups, hidden, most)))
    if len(labels) > len(few):
        tables[-1] = _Lines(
            tables[-1].head, tables[-1].cells, f"{len(few)} of {len(labels)} labels are shown: {', '.join(few)}."
        )
    return tables


def chosen_order(rows: Sequence[Row]) -> list[Row]:
    """Return images in the order in which they are chosen: by a hash, with the first images of all patients first."""
    hashed = sorted(rows, key=lambda row: hashlib.sha256(f"{SALT} {row.image_id}".encode()).digest())
    seen, places = Counter[str](), []
    for number, row in enumerate(hashed):
        places.append((seen[row.patient_id], number))
        seen[row.patient_id] += 1
    return [hashed[number] for _, number in sorted(places)]


def _cells(
    manifest: Manifest,
    groups: Mapping[str, Mapping[Split, Sequence[Row]]],
    hidden: Mapping[Split, bool],
    most: int,
) -> dict[str, dict[Split, Sequence[_Choice] | str]]:
    def cell(split: Split, rows: Sequence[Row]) -> Sequence[_Choice] | str:
        if rows:
            return [_Choice(row, _largest(manifest, row)) for row in rows[:most]]
        return "none that may be shown" if hidden[split] else "none"

    return {name: {split: cell(split, rows) for split, rows in each.items()} for name, each in groups.items()}


def _largest(manifest: Manifest, row: Row) -> int | None:
    """Return the axial slice of a volume with most foreground; None for an empty label map or a 2D image."""
    if row.kind != "volume" or row.mask is None:
        return None
    areas = _areas(manifest, row, 2, has_classes=False)[:, 1]
    return int(areas.argmax()) if areas.any() else None


def _of_label_maps(manifest: Manifest, order: Mapping[Split, Sequence[Row]], names: Sequence[str], most: int) -> _Lines:
    numbers = range(1, min(len(names), MAX_CLASSES + 1))
    cells: dict[str, dict[Split, Sequence[_Choice] | str]] = {names[number]: {} for number in numbers}
    for split, rows in order.items():
        masked = [row for row in rows if row.mask is not None]
        looked = masked[:LOOKED_AT]
        found = _find(manifest, looked, len(names), most)
        rest = f"none in {len(looked)} of {len(masked)} label maps" if len(looked) < len(masked) else "none"
        for number in numbers:
            cells[names[number]][split] = found[number] or (rest if masked else "no label map")
    note = f"The first {MAX_CLASSES} of {len(names) - 1} classes are shown." if len(names) - 1 > MAX_CLASSES else ""
    return _Lines("class of label maps", cells, note)


def _find(manifest: Manifest, rows: Sequence[Row], num_classes: int, most: int) -> list[list[_Choice]]:
    """Return up to `most` images for each class; of a volume, the slice with the largest area of the class."""
    found: list[list[_Choice]] = [[] for _ in range(num_classes)]
    for row in rows:
        wanted = [number for number in range(1, num_classes) if len(found[number]) < most]
        if not wanted:
            break
        areas = _areas(manifest, row, num_classes, has_classes=bool(manifest.facts.mask_classes))
        for number in wanted:
            if areas[:, number].any():
                found[number].append(_Choice(row, int(areas[:, number].argmax()) if row.kind == "volume" else None))
    return found


def _areas(manifest: Manifest, row: Row, num_classes: int, *, has_classes: bool) -> Int[Array, "k l"]:
    """Return the number of pixels of each class in each slice; without classes, of background and foreground."""
    assert row.mask is not None, "rows without a label map have no areas"
    labels = manifest.store.get(row.mask)
    slices = (labels[..., k] for k in range(labels.shape[-1])) if labels.ndim == 3 else (labels,)
    counts = []
    for each in slices:
        values = np.where(each == IGNORED, 0, each) if has_classes else np.minimum(each, 1)
        counts.append(np.bincount(values[values < num_classes].astype(np.int64), minlength=num_classes))
    return np.stack(counts)


def _table(manifest: Manifest, lines: _Lines, names: Sequence[str], number: int) -> PictureTable:
    splits = splits_of(manifest)
    drawn = [
        (
            Outside(name),
            [
                cell if isinstance(cell, str)
                else [
                    _picture(manifest, choice, names, f"montage-{number}-{line}-{split}-{place}")
                    for place, choice in enumerate(cell)
                ]
                for split, cell in cells.items()
            ],
        )
        for line, (name, cells) in enumerate(lines.cells.items())
    ]  # fmt: skip
    return PictureTable([Outside(lines.head), *splits], drawn, class_colors(names))


def _picture(manifest: Manifest, choice: _Choice, names: Sequence[str], name: str) -> Picture:
    row, k = choice.row, choice.slice_index
    values = thumbnail(manifest, row, slice_index=k, max_side=2 * SIDE)
    labels, has_classes = _labels(manifest, choice), bool(manifest.facts.mask_classes)
    if labels is None:
        labels, seen = np.zeros(values.shape[:2], np.int64), "without a label map"
    else:
        labels = np.where(labels == IGNORED, 0, labels) if has_classes else labels
        shown = np.unique(labels if has_classes else np.minimum(labels, 1))
        outlined = [names[value] for value in shown if 0 < value < len(names)]
        seen = f"outlines of {', '.join(outlined)}" if outlined else "no class in it"
    place = ""
    if row.kind == "volume":
        place = f", slice {(row.shape[3] // 2 if k is None else k) + 1} of {row.shape[3]}"
    across, down = (row.spacing_mm or (1.0, 1.0, 1.0))[:2] if row.kind == "volume" else (1.0, 1.0)
    shape = row.shape[2:0:-1] if row.kind == "volume" else values.shape[:2]
    png = outlined_png(values, labels, height_to_width=shape[0] * down / (shape[1] * across), has_classes=has_classes)
    caption = Outside(f"{row.kind} {row.image_id}, {row.split}{place}, {seen}")
    return Picture(name, caption, png, WIDTH, title=f"{row.image_id}{place}")


def _labels(manifest: Manifest, choice: _Choice) -> Int[Array, "h w"] | None:
    row, k = choice.row, choice.slice_index
    if row.mask is None:
        return None
    if row.kind != "volume":
        return every_few(manifest.store.get(row.mask), 2 * SIDE)
    k = row.shape[3] // 2 if k is None else k
    plane = manifest.store.get(row.mask, (slice(None), slice(None), slice(k, k + 1)))
    return every_few(axial(plane, 0), 2 * SIDE)


def outlined_png(
    values: Float[Array, "h w *c"], labels: Int[Array, "h w"], *, height_to_width: float, has_classes: bool = True
) -> bytes:
    """Return a PNG of an image with values from 0 to 1, and the outline of each class of its label map in its color.

    The longer side has `SIDE` pixels. An outline is the pixels of a class next to those of other classes. Without
    classes, the values of the label map number instances, whose outlines have one color.
    """
    from skimage.segmentation import find_boundaries

    height = SIDE if height_to_width >= 1 else max(1, round(SIDE * height_to_width))
    width = SIDE if height_to_width <= 1 else max(1, round(SIDE / height_to_width))
    picture = Pillow.fromarray((np.clip(values, 0.0, 1.0) * 255).round().astype(np.uint8))
    picture = picture.resize((width, height), Pillow.Resampling.BICUBIC)
    shades, palette = _shades(picture) if picture.mode == "L" else _colors(picture)
    rows, columns = ((np.arange(n) * size) // n for n, size in zip((height, width), labels.shape, strict=True))
    grown = labels[np.ix_(rows, columns)].astype(np.int64)
    pixels = np.array(shades)
    is_outline = find_boundaries(grown, mode="inner", background=0)
    numbers = grown[is_outline] if has_classes else np.ones(int(is_outline.sum()), np.int64)
    pixels[is_outline] = NUM_SHADES + (numbers - 1) % len(PALETTE)
    palette += [0] * (3 * NUM_SHADES - len(palette))
    palette += [value for color in PALETTE for value in bytes.fromhex(color[1:])]
    made = Pillow.fromarray(pixels, "P")
    made.putpalette(palette)
    buffer = io.BytesIO()
    made.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _shades(picture: Pillow.Image) -> tuple[Pillow.Image, list[int]]:
    """Return a gray picture in `NUM_SHADES` evenly spaced shades, as their numbers, and the palette of the shades."""
    shades = np.linspace(0, 255, NUM_SHADES).round().astype(int)
    numbers = (np.arange(256) * (NUM_SHADES - 1) / 255).round().astype(int)
    return picture.point(numbers.tolist()), shades.repeat(3).tolist()


def _colors(picture: Pillow.Image) -> tuple[Pillow.Image, list[int]]:
    """Return a picture in the `NUM_SHADES` colors that fit it best, as their numbers, and the palette of the colors."""
    fitted = picture.quantize(NUM_SHADES)
    return fitted, (fitted.getpalette() or [])[: 3 * NUM_SHADES]
