"""Pixels of one frame of a DICOM instance, and the meaning of their values."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from einops import rearrange
from jaxtyping import Num
from numpy import ndarray as Array

from medvit.dicom import real_world
from medvit.dicom.decoders import BIG_ENDIAN, stored_values
from medvit.dicom.direct.fast_dataset import FastDataset
from medvit.dicom.lookup_tables import first_mapped, palette
from medvit.dicom.modality_lut import Meaning, ValueFacts, meaning
from medvit.dicom.padding import declared, through_table, within
from medvit.dicom.pixel_layout import PixelLayout, layout
from medvit.dicom.real_world import RealWorldMapping
from medvit.dicom.suv import SUV_UNIT, Suv, common_factor, suv
from medvit.dicom.voi_lut import displayed
from medvit.errors import UnreadableError, UnsupportedError
from medvit.measured import narrowed_together
from medvit.records import Padding, Values

if TYPE_CHECKING:
    from pydicom import Dataset

log = logging.getLogger("medvit")

MAPPED = Suv(None, f"its values come from its {real_world.ELEMENT}")


@dataclass(frozen=True)
class Frame:
    """One decoded frame (C, H, W) in its stored type; real value = `slope` * stored value + `intercept`, in `unit`.

    64-bit floating-point values are kept here; `narrowed_frames` converts them for all frames of an image together.
    """

    pixels: Num[Array, "c h w"]
    slope: float = 1.0
    intercept: float = 0.0
    unit: str = ""
    suv: Suv | None = None
    """Conversion of real values to SUVbw, for PET only."""
    padding: Padding | None = None
    """Bounds of the stored padding values (pixels without a measurement)."""
    facts: ValueFacts = field(default_factory=ValueFacts)
    offered: str = ""
    """Labels and units of the file's real-world value mappings that were not applied."""
    num_unmapped: int = 0
    """Number of pixels without a value in the mapping that was applied by default."""

    @property
    def mapping(self) -> str:
        """Label of the applied real-world value mapping; empty if none was applied."""
        return (self.facts.label or real_world.UNLABELED) if self.facts.scaling == "mapping" else ""


def decode(dataset: Dataset, values: Values = "stored", mapping: str = "") -> Frame:
    """Decode the frame of a single-frame instance: `decode_frame(dataset, 0)`."""
    return decode_frame(dataset, 0, values, mapping)


def decode_frames(dataset: Dataset) -> Iterator[Frame]:
    """Yield the frames of an instance in order, each decoded on demand; never all at once."""
    return (decode_frame(dataset, index) for index in range(layout(dataset).frames))


def decode_frame(dataset: Dataset, index: int, values: Values = "stored", mapping: str = "") -> Frame:
    """Decode a single frame of an instance, counted from 0.

    - YBR and palette colors are converted to RGB; the result is (C, H, W), however channels are stored.
    - A modality table is applied; a rescale is returned as `slope` and `intercept`, per frame if frames differ.
    - A real-world value mapping (PS3.3 C.7.6.16.2.11) replaces table and rescale if `values` is "mapped" and `mapping`
      is its label. By default, it is also applied if it is the only mapping and the file has neither a table nor a
      rescale. It is never applied if `values` is "unmapped".
    - Overlays are ignored, including those in unused bits of pixels.
    - If the file displays low gray values bright, values are inverted, so that high values are bright. This is the case
      for MONOCHROME1 and for (2050,0020) PresentationLUTShape INVERSE, which mean the same in a radiograph. With
      (0028,0101) BitsStored n, x becomes `2^n - 1 - x`, or `-1 - x` if values are signed. Values with a physical unit
      (HU, Bq/mL) and mapped values are not inverted, because the file inverts only their display, not the quantity.
    - The VOI table or window, which is for display only, is applied if `values` is "displayed" and the file has one. If
      the file declares padding, padding becomes 0 and measured values become 1 or more.

    Raises:
        UnreadableError: If the pixels are damaged, or the header contradicts them or itself.
        UnsupportedError: If no installed decoder supports the transfer syntax or the color coding, or no mapping of
            the file has the label.
    """
    _settle_syntax(dataset)
    laid = layout(dataset)
    stored = stored_values(dataset, laid, index)
    if stored.ndim == 3:
        return Frame(np.ascontiguousarray(rearrange(stored, "h w c -> c h w")))
    is_little = str(dataset.file_meta.get("TransferSyntaxUID")) != BIG_ENDIAN
    if laid.photometric == "PALETTE COLOR":
        tables = palette(dataset, is_little=is_little, is_signed=laid.is_signed)
        return Frame(np.stack([table(stored) for table in tables]))
    _check_gray(stored, dataset, is_signed=laid.is_signed)
    means = meaning(dataset, index, is_little=is_little, is_signed=laid.is_signed)
    if values == "displayed":
        shown = _displayed(stored, means, dataset, index, laid)
        if shown is not None:
            return shown
    offered = real_world.mappings(dataset, index, is_signed=laid.is_signed)
    return (
        _mapped(stored, means, dataset, laid, offered, values, mapping)
        if offered
        else _gray(stored, means, dataset, laid)
    )


def in_unit(frames: Sequence[Frame], values: Values) -> list[Frame]:
    """Return the frames of one image, in SUVbw if that is requested and the file allows it for all of them.

    If the conversion is not possible, the frames keep their unit, and a warning gives the reason.
    """
    if values != "SUVbw" or not frames:
        return list(frames)
    common = common_factor([frame.suv for frame in frames])
    if common.factor is None:
        log.warning("a PET image keeps its unit %s: %s", frames[0].unit or "(unknown)", common.reason)
        return list(frames)
    scaled = []
    for frame in frames:
        slope, intercept = frame.slope * common.factor, frame.intercept * common.factor
        scaled.append(replace(frame, slope=slope, intercept=intercept, unit=SUV_UNIT))
    return scaled


def narrowed_frames(frames: Sequence[Frame]) -> list[Frame]:
    """Return the frames of one image with 64-bit floating-point values converted to one smaller type.

    Raises:
        UnsupportedError: If the conversion would change the values (see `measured.narrowed_together`).
    """
    pixels = narrowed_together([frame.pixels for frame in frames])
    return [
        frame if one is frame.pixels else replace(frame, pixels=one, padding=within(frame.padding, one.dtype))
        for frame, one in zip(frames, pixels, strict=True)
    ]


def mirrored(stored: Num[Array, "h w"], *, bits: int) -> Num[Array, "h w"]:
    """Mirror values within the range that `bits` can represent, in the same type.

    Mirroring twice restores the values.
    """
    # Both are the complement of all bits: ~x = -1 - x where signed, and within the bits stored if unsigned.
    if np.issubdtype(stored.dtype, np.signedinteger):
        return np.invert(stored)
    return np.bitwise_xor(stored, stored.dtype.type(2 ** min(bits, 8 * stored.dtype.itemsize) - 1))


def _displayed(
    stored: Num[Array, "h w"], means: Meaning, dataset: Dataset, index: int, laid: PixelLayout
) -> Frame | None:
    """Return the frame as its file displays it; None if the file does not define its display."""
    is_little = str(dataset.file_meta.get("TransferSyntaxUID")) != BIG_ENDIAN
    padding = within(declared(dataset, is_signed=laid.is_signed, keyword=laid.keyword), stored.dtype)
    gaps = None if padding is None else (stored >= padding[0]) & (stored <= padding[1])
    shown = displayed(_real(stored, means), dataset, index, is_little=is_little, gaps=gaps)
    if shown is None:
        return None
    facts = replace(_facts(means, dataset, laid), scaling="displayed", rescale_type="")
    shown = np.invert(shown) if facts.is_dark_high else shown
    if gaps is None:
        return Frame(shown[None], facts=facts)
    # One value is reserved for padding, so that no measured pixel gets it, however dark or bright it is displayed.
    apart = np.where(gaps, 0, np.maximum(shown, 1)).astype(shown.dtype)
    return Frame(apart[None], padding=(0.0, 0.0), facts=facts)


def _mapped(
    stored: Num[Array, "h w"],
    means: Meaning,
    dataset: Dataset,
    laid: PixelLayout,
    offered: Sequence[RealWorldMapping],
    values: Values,
    label: str,
) -> Frame:
    """Return the frame of a file that has real-world value mappings, which are listed in `offered`.

    If `values` is "mapped", the mapping with the given label is applied. If `values` is "unmapped", no mapping is
    applied. In all other cases, the default mapping is applied if there is one.
    """
    chosen: RealWorldMapping | None = None
    if values == "mapped":
        chosen = real_world.named(offered, label)
    elif values != "unmapped":
        chosen = real_world.only(offered, is_rescaled=means.scaling != "none")
    if chosen is None:
        return replace(_gray(stored, means, dataset, laid), offered=", ".join(sorted(map(str, offered))))
    padding = declared(dataset, is_signed=laid.is_signed, keyword=laid.keyword)
    num_unmapped = chosen.count_unmapped(stored, padding)
    if values == "mapped":
        real_world.require_all_mapped(chosen, num_unmapped)
    frame = _gray(stored, chosen.meaning, dataset, laid)
    facts = replace(frame.facts, label=chosen.label, said_label=chosen.said_label)
    return replace(frame, facts=facts, suv=frame.suv and MAPPED, num_unmapped=num_unmapped)


def _facts(means: Meaning, dataset: Dataset, laid: PixelLayout) -> ValueFacts:
    return ValueFacts(
        means.scaling,
        means.rescale_type,
        laid.photometric,
        is_inverted(dataset, laid.photometric),
        laid.is_signed,
        laid.bits_stored,
    )


def _gray(stored: Num[Array, "h w"], means: Meaning, dataset: Dataset, laid: PixelLayout) -> Frame:
    bits = laid.bits_stored
    facts = _facts(means, dataset, laid)
    padding = declared(dataset, is_signed=laid.is_signed, keyword=laid.keyword)
    if means.table is not None:
        made, bits = means.table(stored), means.table.bits
        stored, padding = made, through_table(padding, stored, made)
    padding = within(padding, stored.dtype)
    if facts.is_turned(means.unit):
        # Floating-point values have no known range: they are negated.
        stored, padding = turned(stored, padding, bits=bits)
    pixels = np.ascontiguousarray(stored)[None]
    return Frame(pixels, means.slope, means.intercept, means.unit, suv(dataset), padding, facts)


def turned(
    stored: Num[Array, "h w"], padding: Padding | None, *, bits: int
) -> tuple[Num[Array, "h w"], Padding | None]:
    """Invert values and their padding, so that high values become low; inverting twice restores them.

    Floating-point values are negated; integers are mirrored (see `mirrored`).
    """
    if np.issubdtype(stored.dtype, np.floating):
        return -stored, None if padding is None else (-padding[1], -padding[0])
    if padding is None:
        return mirrored(stored, bits=bits), None
    ends = sorted(float(end) for end in mirrored(np.array([padding], stored.dtype), bits=bits)[0])
    return mirrored(stored, bits=bits), (ends[0], ends[1])


def _real(stored: Num[Array, "h w"], means: Meaning) -> Num[Array, "h w"]:
    values = stored if means.table is None else means.table(stored)
    return values.astype(np.float64) * means.slope + means.intercept


def is_inverted(dataset: Dataset | FastDataset, photometric: str) -> bool:
    """Return whether the file displays low values bright; `photometric` is (0028,0004) PhotometricInterpretation."""
    shape = str(dataset.get("PresentationLUTShape") or "").strip()
    return photometric == "MONOCHROME1" or (photometric == "MONOCHROME2" and shape == "INVERSE")


def _check_gray(stored: Num[Array, "h w"], dataset: Dataset, *, is_signed: bool) -> None:
    """Refuse gray images in which some values stand for colors (PS3.3 C.8.16.2.1.1.1 and C.7.6.19)."""
    if str(dataset.get("PixelPresentation") or "") not in ("COLOR", "MIXED"):
        return
    if "RedPaletteColorLookupTableDescriptor" not in dataset:
        return
    first = first_mapped(dataset, is_signed=is_signed)
    num_colored = int((stored >= first).sum())
    if num_colored:
        raise UnsupportedError(
            f"{num_colored} gray values, from {first} upwards, encode colors (supplemental palette); expected an image "
            "with gray values only"
        )


def _settle_syntax(dataset: Dataset) -> None:
    """Set the transfer syntax of a data set without file meta information to the syntax it was read with."""
    if dataset.file_meta.get("TransferSyntaxUID"):
        return
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    is_implicit, is_little = dataset.original_encoding
    if is_implicit is None or is_little is None:
        raise UnreadableError("the file has no (0002,0010) TransferSyntaxUID, so the encoding of its pixels is unknown")
    explicit = ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else explicit
