"""Leakage between datasets and splits: shared patients, studies, files and pixels, and near duplicates.

A model that was trained on an image, or on another image of the same patient, has seen part of the answer. With the
same site key, a patient known by PatientID has the same pseudonym in every dataset. A patient known only by a file name
has a different pseudonym in every dataset, so for such datasets only pixels can be compared.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Num
from numpy import ndarray as Array

from medvit.dataset.manifest import Manifest
from medvit.leakage.perceptual_hash import (
    COARSE_DISTANCE,
    MARK,
    MAX_DISTANCE,
    MIN_CORRELATION,
    TURNS,
    Pairs,
    Turn,
    coarse_pairs,
    correlation,
    hash_image,
    near_pairs,
)
from medvit.leakage.second_look import SMALL, Look, prepared, shows_the_same
from medvit.measured import filled
from medvit.records import Row
from medvit.summary import Summary

VERSION = 3
"""Version of perceptual hashes and comparisons. If it is increased, the next update of a dataset computes them
again.
"""

WIDER = 2
"""Factor by which the maximum number of differing bits is raised for pairs that a comparison of pixels must confirm."""
CACHED_LOOKS = 384
"""Maximum number of images kept in memory for comparisons of pixels: about 125 MB."""

log = logging.getLogger("medvit")

Check = Literal["patient", "study", "file", "pixel", "perceptual"]
CHECKS: tuple[Check, ...] = ("patient", "study", "file", "pixel", "perceptual")


@dataclass(frozen=True)
class GroupMember:
    """Row of a manifest, and the name of its dataset: `a`, `b`, or empty if there is only one dataset."""

    source: str
    row: Row

    @property
    def place(self) -> str:
        """Dataset and split of the row."""
        return f"{self.source} {self.row.split}".strip()


@dataclass(frozen=True)
class Overlap:
    """Images that share a patient, a study, a file or their pixels, or that are near duplicates.

    `distance` is the largest number of differing hash bits between linked near duplicates of the group. `is_turned` is
    True if some images are near duplicates only after mirroring or rotation by right angles.
    """

    check: Check
    members: tuple[GroupMember, ...]
    distance: int = 0
    is_turned: bool = False

    @property
    def places(self) -> tuple[str, ...]:
        """Distinct datasets and splits of the images, in order."""
        return tuple(sorted({member.place for member in self.members}))

    @property
    def crosses(self) -> bool:
        """Whether the group has images in several splits or datasets."""
        return len(self.places) > 1


@dataclass(frozen=True)
class Leakage:
    """Result of a search: `hits.csv`, `leakage.html`, and the `overlaps` that these files list."""

    folder: Path
    overlaps: tuple[Overlap, ...]

    def summary(self) -> Summary:
        """Return, for each kind of overlap, the number of groups that are in several splits or datasets."""
        crossing = Counter(overlap.check for overlap in self.overlaps if overlap.crosses)
        found = [f"{check} {number}" for check, number in crossing.items()]
        files = {"leakage.html": "report", "hits.csv": "a row for each image of a group"}
        return Summary([("crossing", ", ".join(found) or "no group")], files)


def find_overlaps(
    manifests: Mapping[str, Manifest], checks: Collection[Check] = CHECKS, max_distance: int = MAX_DISTANCE
) -> tuple[Overlap, ...]:
    """Find all overlaps of the named datasets.

    Patients and studies are listed only if they are in several splits or datasets. Groups of images are always listed.

    Constant images are not compared. Near duplicates are groups of at least two different images, which may be mirrored
    or rotated copies. The pixels of two images are compared if their hashes differ in at most `max_distance` bits.
    Without rotation or mirroring, they are also compared if the hashes differ in up to twice as many bits, or if the
    images are nearest neighbors by their lowest frequencies. Images are linked if their fine structure agrees, which
    also finds shifted or cropped copies. Volumes and smooth images are linked if they are correlated and their hashes
    differ in at most `max_distance` bits. Groups are transitive: two images that are linked to a third are in one
    group.

    Raises:
        DataError: If a store lacks pixels that are required for the comparison.
    """
    members = [GroupMember(name, row) for name, manifest in manifests.items() for row in manifest]
    images = [member for member in members if "constant" not in (member.row.flags or ())]
    finders: dict[Check, Callable[[], Iterable[Overlap]]] = {
        "patient": lambda: (o for o in _shared("patient", members, lambda row: row.patient_in_any_source) if o.crosses),
        "study": lambda: (o for o in _shared("study", members, lambda row: row.study_id) if o.crosses),
        "file": lambda: _shared("file", images, lambda row: row.file_sha256),
        "pixel": lambda: _shared("pixel", images, lambda row: row.sha256),
        "perceptual": lambda: _alike(images, manifests, max_distance),
    }
    found = [overlap for check in CHECKS if check in checks for overlap in finders[check]()]
    return tuple(sorted(found, key=lambda o: (CHECKS.index(o.check), not o.crosses, o.distance)))


def find_copies(manifest: Manifest) -> tuple[Overlap, ...]:
    """Find groups of one dataset with identical pixels or near duplicates.

    Warn if near duplicates are in several splits.

    Raises:
        DataError: If the store lacks pixels that are required for the comparison.
    """
    overlaps = find_overlaps({"": manifest}, ("pixel", "perceptual"))
    crossing = sum(overlap.check == "perceptual" and overlap.crosses for overlap in overlaps)
    if crossing:
        log.warning("groups of near duplicates in several splits: %d; see `medvit leakage`", crossing)
    return overlaps


def _shared(check: Check, members: Sequence[GroupMember], key: Callable[[Row], str | None]) -> Iterator[Overlap]:
    groups: dict[str, list[GroupMember]] = defaultdict(list)
    for member in members:
        value = key(member.row)
        if value is not None:
            groups[value].append(member)
    yield from (Overlap(check, _ordered(group)) for group in groups.values() if len(group) > 1)


def _alike(images: Sequence[GroupMember], manifests: Mapping[str, Manifest], max_distance: int) -> Iterator[Overlap]:
    by_content: dict[str, list[GroupMember]] = defaultdict(list)
    for member in images:
        by_content[member.row.sha256].append(member)
    hashed = _hashed([group[0] for group in by_content.values()], manifests)
    groups = Groups(len(hashed))
    turned = set()
    comparison = Comparison(hashed, manifests, max_distance)
    for one, other, distance, turn in _near(hashed, max_distance):
        if not groups.are_joined(one, other) and comparison.are_alike(one, other, distance, turn):
            groups.join(one, other, distance)
            turned |= {one} if turn else set()
    for indices, distance in groups.found():
        joined = [member for index in indices for member in by_content[hashed[index].row.sha256]]
        yield Overlap("perceptual", _ordered(joined), distance, not turned.isdisjoint(indices))


def _near(hashed: Sequence[GroupMember], max_distance: int) -> Iterator[tuple[int, int, int, Turn | None]]:
    """Yield pairs of images that may be near duplicates, for a comparison of their pixels.

    Pairs with similar hashes come first, the most similar ones at the front. Then come pairs with similar lowest
    frequencies, which may be cropped copies. Pairs that are similar after one image is rotated or mirrored come last. A
    pair has two indices, the number of differing bits, and the rotation, if any.
    """
    hashes = [member.row.perceptual_hash or "" for member in hashed]
    yield from _listed(near_pairs(hashes, WIDER * max_distance), None)
    large = [text if _is_large(member.row) else "" for text, member in zip(hashes, hashed, strict=True)]
    yield from _listed(coarse_pairs(large, COARSE_DISTANCE * max_distance // MAX_DISTANCE), None)
    for ndim, turns in TURNS.items():
        of_these = [text if len(m.row.shape) == ndim + 1 else "" for text, m in zip(hashes, hashed, strict=True)]
        for turn in turns:
            yield from _listed(near_pairs(of_these, max_distance, turn), turn)


def _is_large(row: Row) -> bool:
    """Return whether an image has enough pixels to find cropped copies of it."""
    return len(row.shape) == 3 and min(row.shape[1:]) >= SMALL


def _listed(pairs: Pairs, turn: Turn | None) -> Iterator[tuple[int, int, int, Turn | None]]:
    for index in np.argsort(pairs.distances, kind="stable"):
        yield int(pairs.first[index]), int(pairs.second[index]), int(pairs.distances[index]), turn


def _hashed(members: Sequence[GroupMember], manifests: Mapping[str, Manifest]) -> list[GroupMember]:
    """Return the members, with a perceptual hash computed for each row of an older dataset without one."""
    lacking = sum(not _is_hashed(member.row) for member in members)
    if lacking:
        log.info("hashing %d images of datasets made before hashes were stored", lacking)
    return [
        member
        if _is_hashed(member.row)
        else replace(member, row=replace(member.row, perceptual_hash=hash_image(_pixels(member, manifests))))
        for member in members
    ]


def _is_hashed(row: Row) -> bool:
    return row.perceptual_hash is not None and (not row.perceptual_hash or row.perceptual_hash.startswith(MARK))


def _pixels(member: GroupMember, manifests: Mapping[str, Manifest]) -> Num[Array, "c *s"]:
    row = member.row
    pixels = manifests[member.source].store.get(row.sha256)
    return filled(pixels, row.padding, slope=row.slope, intercept=row.intercept)


class Comparison:
    """Comparison of the pixels of images with similar hashes."""

    def __init__(self, members: Sequence[GroupMember], manifests: Mapping[str, Manifest], max_distance: int) -> None:
        self.members, self.manifests, self.max_distance = members, manifests, max_distance
        self._look = lru_cache(maxsize=CACHED_LOOKS)(self._prepared)

    def are_alike(self, one: int, other: int, distance: int, turn: Turn | None) -> bool:
        """Return whether two images, given by index, are near duplicates.

        Images with fine structure are compared by this structure. Smooth images and volumes are compared by
        correlation, and their hashes must differ in at most the allowed number of bits. Images with fine structure may
        be shifted or cropped, which changes their hashes, so their `distance` is not limited.
        """
        shapes = [len(self.members[number].row.shape) for number in (one, other)]
        if shapes[0] != shapes[1] or (shapes[0] != 3 and distance > self.max_distance):
            return False
        if shapes[0] == 3:
            looks = self._look(one, turn), self._look(other, None)
            if not any(look.is_smooth for look in looks):
                return shows_the_same(*looks)
        pixels = [_pixels(self.members[number], self.manifests) for number in (one, other)]
        return distance <= self.max_distance and correlation(pixels[0], pixels[1], turn) >= MIN_CORRELATION

    def _prepared(self, number: int, turn: Turn | None) -> Look:
        return prepared(_pixels(self.members[number], self.manifests), turn)


def _ordered(members: Iterable[GroupMember]) -> tuple[GroupMember, ...]:
    return tuple(sorted(members, key=lambda member: (member.place, member.row.image_id)))


class Groups:
    """Disjoint groups of indices, joined pair by pair (union-find).

    Each group records the largest distance of its linked pairs.
    """

    def __init__(self, size: int) -> None:
        self._parents = list(range(size))
        self._distances = [0] * size

    def are_joined(self, one: int, other: int) -> bool:
        """Return whether two indices are already in the same group."""
        return self._root(one) == self._root(other)

    def join(self, one: int, other: int, distance: int) -> None:
        """Merge the groups of two indices, which are linked at a distance."""
        root, branch = self._root(one), self._root(other)
        self._parents[branch] = root
        self._distances[root] = max(distance, self._distances[root], self._distances[branch])

    def found(self) -> Iterator[tuple[Sequence[int], int]]:
        """Return the groups of two or more indices, with the largest distance of each group."""
        members: dict[int, list[int]] = defaultdict(list)
        for index in range(len(self._parents)):
            members[self._root(index)].append(index)
        yield from ((group, self._distances[root]) for root, group in members.items() if len(group) > 1)

    def _root(self, index: int) -> int:
        while self._parents[index] != index:
            self._parents[index] = self._parents[self._parents[index]]
            index = self._parents[index]
        return index
