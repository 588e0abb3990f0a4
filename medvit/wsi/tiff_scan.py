"""Choice of the slide image in a TIFF: the largest image other than label, macro image and thumbnail."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from medvit.errors import UnsupportedError

BESIDE = re.compile(r"(?<![a-z])(label|macro|overview|thumbnail|localizer)(?![a-z])", re.IGNORECASE)
"""Words in the name or short description of an overview, a label or a thumbnail."""
MAX_DESCRIPTION = 200
"""Longest (270) ImageDescription that may be a name; longer ones are metadata."""
MICRONS = {2: 25_400.0, 3: 10_000.0}
"""Microns in the unit of (296) ResolutionUnit: inch, centimeter (TIFF 6.0, section 8)."""
OME_UNITS = {"nm": 1e-3, "µm": 1.0, "\u03bcm": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
"""Microns in the units of OME-XML's PhysicalSizeXUnit; the default is microns (OME 2016-06)."""
ROUNDING = 2
"""Rounding tolerance, in pixels, for the sides of a reduced copy."""


@dataclass(frozen=True)
class TiffScan:
    """The slide in a TIFF: a tifffile page per level, highest resolution first, and the size of its pixels."""

    pages: tuple[Any, ...]
    pixel_um: tuple[float, float] | None


def scan_of(file: Any) -> TiffScan:
    """Find the slide in an open TIFF.

    Raises:
        UnsupportedError: If the file has no slide, or several without a mark that selects one.
    """
    ome = tuple(_ome_pixels(file))
    pictures = list(file.series)
    scans = [one for one in pictures if not _is_beside(one)]
    if not scans:
        raise UnsupportedError(
            f"a TIFF of {len(pictures)} images, all named label, macro, overview or thumbnail, which may show names; "
            "expected the scan itself"
        )
    largest = max(scans, key=lambda one: math.prod(size_of(one.keyframe)))
    rivals = [one for one in scans if one is not largest and _is_rival(one, largest)]
    if rivals:
        sizes = ", ".join("{1} x {0}".format(*size_of(one.keyframe)) for one in [largest, *rivals[:3]])
        raise UnsupportedError(
            f"a TIFF of {len(rivals) + 1} images that may be the slide ({sizes} pixels); expected one scan per "
            "file, others named as label or macro: save each scan as its own file"
        )
    _require_one_plane(largest)
    others = [level.keyframe for one in scans if one is not largest for level in one.levels]
    lower = [page for page in others if _is_level(page, largest.keyframe)]
    pages = _by_size([level.keyframe for level in largest.levels] + lower)
    return TiffScan(pages, _ome_um(ome, pages[0]) or _resolution_um(pages[0]))


def size_of(page: Any) -> tuple[int, int]:
    """Return the rows and columns of a page."""
    return int(page.imagelength), int(page.imagewidth)


def _by_size(pages: Sequence[Any]) -> tuple[Any, ...]:
    """Return one page of each size, largest first."""
    first: dict[tuple[int, int], Any] = {}
    for page in pages:
        first.setdefault(size_of(page), page)
    return tuple(sorted(first.values(), key=lambda page: -math.prod(size_of(page))))


def _is_beside(series: Any) -> bool:
    description = str(series.keyframe.description or "")
    texts = (str(series.name or ""), description if len(description) <= MAX_DESCRIPTION else "")
    return any(BESIDE.search(text) for text in texts)


def _is_rival(one: Any, largest: Any) -> bool:
    """Return whether an image may be a separate scan.

    It is not a separate scan if it is a reduced copy of the largest image, or if it is stored in strips although the
    largest image is stored in tiles.
    """
    page, of = one.keyframe, largest.keyframe
    if page.is_reduced or _is_smaller(page, of):
        return False
    return bool(page.is_tiled or not of.is_tiled or len(one.levels) > 1)


def _is_level(page: Any, of: Any) -> bool:
    """Return whether a page is a level of the image `of`, although tifffile did not assign it to that image.

    It is a level if it is marked as reduced, is smaller than that image, and is stored in tiles or strips as that image
    is.
    """
    return bool((page.is_reduced or page.is_subifd) and page.is_tiled == of.is_tiled and _is_smaller(page, of))


def _is_smaller(page: Any, of: Any) -> bool:
    (height, width), (rows, columns) = size_of(page), size_of(of)
    return height < rows and abs(columns * height / rows - width) <= ROUNDING


def _require_one_plane(series: Any) -> None:
    planes = {axis: size for axis, size in zip(series.axes, series.shape, strict=True) if axis not in "YXS"}
    if math.prod(planes.values()) > 1:
        names = {"Z": "focal planes", "C": "channels", "T": "times"}
        found = ", ".join(f"{size} {names.get(axis, 'pages')}" for axis, size in planes.items() if size > 1)
        raise UnsupportedError(
            f"a TIFF slide of {found} of one size; expected one color image: save the intended one as a separate file"
        )


def _resolution_um(page: Any) -> tuple[float, float] | None:
    unit = page.tags.get("ResolutionUnit")
    if unit is None or int(unit.value) not in MICRONS:
        return None
    sides = [_side_um(page.tags.get(name), MICRONS[int(unit.value)]) for name in ("XResolution", "YResolution")]
    return (sides[0], sides[1]) if all(sides) else None


def _side_um(resolution: Any, unit_um: float) -> float:
    if resolution is None or not resolution.value[0]:
        return 0.0
    return float(unit_um * resolution.value[1] / resolution.value[0])


@dataclass(frozen=True)
class _OmePixels:
    """OME-XML entry of one image: its first page, its size in pixels, and the size of a pixel."""

    page: int
    size: tuple[int, int]
    pixel_um: tuple[float, float] | None


def _ome_um(ome: Sequence[_OmePixels], page: Any) -> tuple[float, float] | None:
    """Return the pixel size that the OME-XML entries state for a page.

    An entry matches if it has the size of the page and, preferably, its number. The result is None if no entry matches,
    or if equally good matches state different pixel sizes.
    """
    fitting = [one for one in ome if one.size == size_of(page)]
    exact = [one for one in fitting if one.page == page.index]
    sizes = {one.pixel_um for one in exact or fitting}
    return sizes.pop() if len(sizes) == 1 else None


def _ome_pixels(file: Any) -> Iterator[_OmePixels]:
    if not file.is_ome:
        return
    root = ElementTree.fromstring(file.ome_metadata)
    named = {element.text for element in root.iter() if element.tag.endswith("}UUID")}
    if len(named | ({root.get("UUID")} if root.get("UUID") else set())) > 1:
        raise UnsupportedError(
            "an OME-TIFF whose images are in several files; expected the slide in one file: save it as one file"
        )
    for element in root.iter():
        if element.tag.endswith("}Pixels"):
            data = [int(child.get("IFD", "0")) for child in element if child.tag.endswith("}TiffData")]
            size = (int(element.get("SizeY", "0")), int(element.get("SizeX", "0")))
            sides = [_ome_side(element, axis) for axis in "XY"]
            yield _OmePixels(min(data, default=0), size, (sides[0], sides[1]) if all(sides) else None)


def _ome_side(element: ElementTree.Element, axis: str) -> float:
    unit = OME_UNITS.get(element.get(f"PhysicalSize{axis}Unit", "µm"), 0.0)
    return float(element.get(f"PhysicalSize{axis}", "0")) * unit
