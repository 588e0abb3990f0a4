"""Instances that a series holds twice: dropped where nothing differs, refused where pixels do."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medvit.dicom.header import Header

Instance = tuple[Header, ...]
"""All frames of one file."""
Claim = tuple[str, tuple[object, ...], tuple[object, ...]]
"""The name of an image, empty of a plane that its place tells, what else its header says, and the places of frames."""


@dataclass(frozen=True)
class Checked:
    """The instances to go on with, second copies of them, and those of which two claim to be one and are not.

    Of `conflicts`, which are planes, place and number are the same, of each of the `namesakes`, which are images, the
    (0008,0018) SOPInstanceUID.
    """

    kept: tuple[Instance, ...]
    copies: tuple[Instance, ...]
    conflicts: tuple[Instance, ...]
    namesakes: tuple[tuple[Instance, ...], ...]
    damaged: tuple[Instance, ...] = ()
    """Copies whose pixels cannot be decoded, of instances of which another copy can."""


def check_copies(instances: Sequence[Instance], digest: Callable[[Path], str | None]) -> Checked:
    """Finds copies by what headers say and, of suspects only, by a digest of their decoded pixels, if they decode.

    Suspects have the same place, number, traits and size; planes of a volume also under another SOPInstanceUID, as a
    second export gives them, images only under the same one. Images under one SOPInstanceUID that differ in these are
    namesakes; planes are not, since tools that give all of them one UID leave their places.
    """
    suspects: dict[Claim, list[Instance]] = defaultdict(list)
    for instance in instances:
        suspects[_claim(instance)].append(instance)
    num_claims = Counter(own for own, _, _ in suspects)
    kept: list[Instance] = []
    copies: list[Instance] = []
    conflicts: list[Instance] = []
    damaged: list[Instance] = []
    namesakes: dict[str, list[Instance]] = defaultdict(list)
    for (own, _, _), claimants in suspects.items():
        if own and num_claims[own] > 1:
            namesakes[own] += claimants
            continue
        digests = [digest(instance[0].file) for instance in claimants] if len(claimants) > 1 else [""]
        if any(found is not None for found in digests):
            # Pixels that cannot be decoded are not other pixels: they say nothing against those that can.
            damaged += [one for one, found in zip(claimants, digests, strict=True) if found is None]
            claimants = [one for one, found in zip(claimants, digests, strict=True) if found is not None]
        else:
            digests = [hashlib.sha256(instance[0].file.read_bytes()).hexdigest() for instance in claimants]
        if len(set(digests) - {None}) <= 1:
            kept.append(claimants[0])
            copies += claimants[1:]
        elif own:
            namesakes[own] += claimants
        else:
            conflicts += claimants
    return Checked(tuple(kept), tuple(copies), tuple(conflicts), tuple(map(tuple, namesakes.values())), tuple(damaged))


def _is_volume(instance: Instance) -> bool:
    return all(plane.is_slice and plane.has_place for plane in instance)


def _claim(instance: Instance) -> Claim:
    """All that headers say of an instance but for its file and how it is encoded."""
    first = instance[0]
    own = "" if _is_volume(instance) else first.instance or str(first.file)
    alike = (first.sop_class, first.image_type, first.number, first.samples, first.frames, first.bits)
    places = ((p.rows, p.columns, p.position_mm, p.orientation, p.spacing_mm, p.traits, p.frame) for p in instance)
    return own, alike, tuple(places)
