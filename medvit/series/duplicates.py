"""Duplicate instances of a series: identical copies are dropped, instances that differ in their pixels are refused."""

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
"""Header parts that all copies of an instance share: UID (empty for planes, identified by position), other header
values, frame positions.
"""


@dataclass(frozen=True)
class Checked:
    """Result of a search for duplicate instances.

    `kept` are the distinct instances, and `copies` are identical copies of them. Planes with the same position and
    number but different pixels are `conflicts`. Each group of `namesakes` has different images with the same
    (0008,0018) SOPInstanceUID.
    """

    kept: tuple[Instance, ...]
    copies: tuple[Instance, ...]
    conflicts: tuple[Instance, ...]
    namesakes: tuple[tuple[Instance, ...], ...]
    damaged: tuple[Instance, ...] = ()
    """Copies whose pixels cannot be decoded, although the pixels of another copy can be decoded."""


def check_copies(instances: Sequence[Instance], digest: Callable[[Path], str | None]) -> Checked:
    """Find copies by their headers, and compare the decoded pixels of suspected copies by `digest`.

    Suspected copies have the same position, number, traits and size. Planes of a volume can be copies even if their
    SOPInstanceUIDs differ, as after a second export. Other images can be copies only if they have the same
    SOPInstanceUID. If such images differ in position, number, traits or size, they are namesakes. Planes are never
    namesakes, because some tools give all planes the same UID.
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
            # Pixels that cannot be decoded are not different pixels: they do not contradict those that can.
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
    """Return the parts of an instance's headers that are equal in all of its copies.

    The file and the encoding of the pixels are not among these parts.
    """
    first = instance[0]
    own = "" if _is_volume(instance) else first.instance or str(first.file)
    alike = (first.sop_class, first.image_type, first.number, first.samples, first.frames, first.bits)
    places = ((p.rows, p.columns, p.position_mm, p.orientation, p.spacing_mm, p.traits, p.frame) for p in instance)
    return own, alike, tuple(places)
