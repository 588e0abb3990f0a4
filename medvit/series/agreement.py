"""Checks that the slices of one volume agree in rescale, unit, polarity and padding.

A single slice can be wrong. For example, a slice that has lost its rescale has stored values, and these look like
tissue among the real values of the other slices. Slopes may differ, as in PET, where every slice has a separate slope.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Num
from numpy import ndarray as Array

from medvit.dicom.element_values import PET_UNITS, RESCALE_TYPE
from medvit.dicom.pixels import Frame
from medvit.errors import ConflictError
from medvit.measured import rounded
from medvit.records import Padding

log = logging.getLogger("medvit")


def check_values(frames: Sequence[Frame]) -> None:
    """Check that the values of all frames have the same meaning; warn about harmless differences in BitsStored.

    Raises:
        ConflictError: If frames differ in their transformation (a rescale, a modality table, a real-world value mapping
            or none), in the label of the mapping, in unit, in polarity, or in the bits stored where the sign bit or an
            inversion depends on them.
    """
    facts = [frame.facts for frame in frames]
    _require_one(
        "(0028,1053) RescaleSlope, (0028,1054) RescaleType, (0028,3000) ModalityLUTSequence or "
        "(0040,9096) RealWorldValueMappingSequence",
        [(one.scaling, one.rescale_type, one.said_label) for one in facts],
        [one.scaled for one in facts],
    )
    units = [frame.unit for frame in frames]
    _require_one("(0054,1001) Units", units, [f"the unit {_known(unit)}" for unit in units])
    _require_one(
        "(0028,0004) PhotometricInterpretation or (2050,0020) PresentationLUTShape",
        [(one.photometric, one.is_dark_high) for one in facts],
        ["high values dark" if one.is_dark_high else "high values bright" for one in facts],
    )
    bits = [f"{one.bits} bits" for one in facts]
    each = zip(facts, units, bits, strict=True)
    decisive = [number for one, unit, number in each if one.is_signed or one.is_turned(unit)]
    _require_one("(0028,0101) BitsStored, on which the sign or an inversion depends", decisive, decisive)
    if len(set(bits)) > 1:
        log.warning(
            "slices of a volume differ in (0028,0101) BitsStored: %s; this does not affect their values", _counted(bits)
        )


def common_padding(frames: Sequence[Frame]) -> Padding | None:
    """Return the padding that all frames share; None if no frame declares padding. All frames have one type.

    Raises:
        ConflictError: If frames declare different padding, and no single range marks exactly the declared pixels of all
            frames.
    """
    ranges = {frame.padding for frame in frames} - {None}
    if len({frame.padding for frame in frames}) <= 1:
        return frames[0].padding
    common = (min(low for low, _ in filter(None, ranges)), max(high for _, high in filter(None, ranges)))
    for frame in frames:
        own, taken = (_is_padding(frame.pixels, padding) for padding in (frame.padding, common))
        if (own != taken).any():
            raise ConflictError(
                "the slices of one volume differ in (0028,0120) PixelPaddingValue, and the padding value of one is a "
                "measured value in another; expected one padding for all"
            )
    return common


def real_values(frames: Sequence[Frame]) -> tuple[list[Float[Array, "h w"]], Frame]:
    """Return slices (rows, columns) as float32 in their real unit, with a matching frame.

    Padding becomes a value below all measured values.

    Raises:
        UnsupportedError: If float32 cannot hold 32-bit integers exactly.
    """
    if any(frame.pixels.dtype.kind in "iu" and frame.pixels.dtype.itemsize > 2 for frame in frames):
        slices = list(rounded(np.stack([frame.pixels[0] * float(frame.slope) + frame.intercept for frame in frames])))
    else:
        real = [frame.pixels[0].astype(np.float32) * frame.slope + frame.intercept for frame in frames]
        slices = [one.astype(np.float32) for one in real]
    first = replace(frames[0], slope=1.0, intercept=0.0, padding=None)
    gaps = [_is_padding(frame.pixels[0], frame.padding) for frame in frames]
    if not any(gap.any() for gap in gaps):
        return slices, first
    lowest = min((one[~gap].min() for one, gap in zip(slices, gaps, strict=True) if not gap.all()), default=0.0)
    filler = min(
        float(np.nextafter(np.float32(lowest), np.float32(-np.inf))),
        *(float(one[gap].min()) for one, gap in zip(slices, gaps, strict=True) if gap.any()),
    )
    for one, gap in zip(slices, gaps, strict=True):
        one[gap] = filler
    return slices, replace(first, padding=(filler, filler))


def _is_padding(pixels: Num[Array, "*s"], padding: Padding | None) -> Bool[Array, "*s"]:
    if padding is None:
        return np.zeros(pixels.shape, dtype=bool)
    return (pixels >= padding[0]) & (pixels <= padding[1])


def _require_one(elements: str, facts: Sequence[Hashable], words: Sequence[str]) -> None:
    if len(set(facts)) > 1:
        raise ConflictError(
            f"the slices of one volume differ in {elements}: {_counted(words)}; expected one for all, since values "
            "with different meanings cannot form one volume: export the series again, or remove the slices that differ"
        )


def _known(unit: str) -> str:
    is_term = unit in RESCALE_TYPE.terms | PET_UNITS.terms | {"SUVbw"}
    return unit if is_term else "another" if unit else "unknown"


def _counted(words: Sequence[str]) -> str:
    return ", ".join(f"{count} slices with {what}" for what, count in Counter(words).most_common(4))
