"""What the slices of one volume must agree in beside geometry, so that their values may stand beside each other.

A fact of a single slice is no fact of the volume: a slice whose rescale was lost holds stored values among real ones,
and looks like tissue. Slopes may differ, as in PET, where every slice says its own.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable, Sequence

from medvit.dicom.pixels import Frame
from medvit.dicom.value_facts import RESCALE_TYPES, UNITS
from medvit.errors import ConflictError

log = logging.getLogger("medvit")


def check_values(frames: Sequence[Frame]) -> None:
    """Pass frames whose values mean the same; warn where they differ in the bits stored, and nothing hangs on that.

    Raises:
        ConflictError: If they differ in whether there is a rescale, a modality table or none of both, in their unit, in
            polarity, or in the bits stored where the sign bit or an inversion hangs on them.
    """
    facts = [frame.facts for frame in frames]
    _require_one(
        "(0028,1053) RescaleSlope, (0028,1054) RescaleType or (0028,3000) ModalityLUTSequence",
        [(one.scaling, one.rescale_type) for one in facts],
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
    decisive = [number for one, unit, number in each if one.is_signed or (one.is_dark_high and not unit)]
    _require_one("(0028,0101) BitsStored, on which the sign or an inversion hangs", decisive, decisive)
    if len(set(bits)) > 1:
        log.warning("slices of a volume differ in (0028,0101) BitsStored: %s; no value hangs on it", _counted(bits))


def _require_one(elements: str, facts: Sequence[Hashable], words: Sequence[str]) -> None:
    if len(set(facts)) > 1:
        raise ConflictError(
            f"the slices of one volume differ in {elements}: {_counted(words)}; expected one for all, since values "
            "that mean different things make no volume: export the series again, or remove the slices that differ"
        )


def _known(unit: str) -> str:
    return unit if unit in (*RESCALE_TYPES, *UNITS) else "another" if unit else "unknown"


def _counted(words: Sequence[str]) -> str:
    return ", ".join(f"{count} slices with {what}" for what, count in Counter(words).most_common(4))
