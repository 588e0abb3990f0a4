"""Instances that a series holds twice: dropped where nothing differs, refused where pixels do."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medvit.readers.dicom_header import Header

Instance = tuple[Header, ...]
"""All frames of one file."""


@dataclass(frozen=True)
class Checked:
    """The instances to go on with, second copies of them, and those of which two claim to be one and are not.

    Of `conflicts` place and number are the same, of each of the `namesakes` the (0008,0018) SOPInstanceUID.
    """

    kept: tuple[Instance, ...]
    copies: tuple[Instance, ...]
    conflicts: tuple[Instance, ...]
    namesakes: tuple[tuple[Instance, ...], ...] = ()


def check_copies(instances: Sequence[Instance], digest: Callable[[Path], str]) -> Checked:
    """Finds copies by what headers say and, of suspects only, by a digest of their decoded pixels.

    Suspects have the same place, number, traits and size; planes of a volume also under another SOPInstanceUID, as a
    second export gives them, images only under the same one. Images under one SOPInstanceUID that differ in these are
    namesakes; planes are not, since tools that give all of them one UID leave their places.
    """
    suspects: dict[tuple[object, ...], list[Instance]] = defaultdict(list)
    for instance in instances:
        suspects[_claim(instance)].append(instance)
    kept: list[Instance] = []
    copies: list[Instance] = []
    conflicts: list[Instance] = []
    for claimants in suspects.values():
        if len(claimants) == 1:
            kept += claimants
        elif len({digest(instance[0].file) for instance in claimants}) == 1:
            kept.append(claimants[0])
            copies += claimants[1:]
        else:
            conflicts += claimants
    shared = _shared((*kept, *conflicts))
    namesakes: dict[str, list[Instance]] = {uid: [] for uid in shared}
    for instance in (*kept, *copies, *conflicts):
        if _name(instance) in shared:
            namesakes[_name(instance)].append(instance)
    return Checked(
        tuple(instance for instance in kept if _name(instance) not in shared),
        tuple(instance for instance in copies if _name(instance) not in shared),
        tuple(instance for instance in conflicts if _name(instance) not in shared),
        tuple(map(tuple, namesakes.values())),
    )


def _shared(instances: Sequence[Instance]) -> dict[str, int]:
    """The UIDs that images share though they are no copies of one another."""
    counts = Counter(map(_name, instances))
    return {uid: count for uid, count in counts.items() if uid and count > 1}


def _name(instance: Instance) -> str:
    return "" if _is_volume(instance) else instance[0].instance


def _is_volume(instance: Instance) -> bool:
    return all(plane.is_slice and plane.has_place for plane in instance)


def _claim(instance: Instance) -> tuple[object, ...]:
    """All that headers say of an instance but for its file and how it is encoded."""
    first = instance[0]
    own = "" if _is_volume(instance) else first.instance or str(first.file)
    alike = (first.sop_class, first.image_type, first.number, first.samples, first.frames, first.bits)
    places = ((p.rows, p.columns, p.position_mm, p.orientation, p.spacing_mm, p.traits, p.frame) for p in instance)
    return own, alike, tuple(places)
