"""Splitting of one series into images and volumes: stacks of different planes, and times or echoes of each stack.

Volumes are determined by the positions of planes, then by their traits, and last by the order of their instance
numbers, but never by file names or by the number of planes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from jaxtyping import Int
from numpy import ndarray as Array

from medvit.dicom.dimensions import BY_NAME, TRAITS, DimensionValue
from medvit.dicom.header import Header
from medvit.errors import GeometryError
from medvit.geometry import AXIS_TOLERANCE
from medvit.series.parallel_stacks import side_by_side
from medvit.series.volume import axes_of, position_tolerance_mm

SCOUT_DEGREES = 30.0
"""A single plane is a scout if its angle to each other plane of its series is at least this large. If an angle is
smaller, the plane is a stray slice, and the series is refused.
"""

KeyT = TypeVar("KeyT", bound=Hashable)

COMPONENTS = {"M": "magnitude", "P": "phase", "R": "real", "I": "imaginary", "W": "water", "F": "fat"}
COMPONENTS |= {name.upper(): name for name in COMPONENTS.values()}
COMPONENTS |= {"IP": "in phase", "IN_PHASE": "in phase", "OP": "opposed phase", "OPP_PHASE": "opposed phase"}
COMPONENTS |= {"OUT_PHASE": "opposed phase", "ADC": "ADC", "FA": "FA", "TRACEW": "trace", "MIXED": "mixed"}
"""Known values of ImageType and ComplexImageComponent, and their meaning."""
RAW_TYPES = {0.0: "magnitude", 1.0: "phase", 2.0: "real", 3.0: "imaginary"}
"""Values of GE's (0043,xx2F)."""
UNITS = {"echo time": "ms", "inversion time": "ms", "flip angle": "degrees", "b-value": "s/mm2", "tube voltage": "kV"}


@dataclass(frozen=True)
class Subseries:
    """Planes that form one volume, and the names that distinguish the volume within its series.

    If volumes are separated by time, `num_positions` is the number of slice positions that a complete volume has.
    """

    planes: tuple[Header, ...]
    names: tuple[str, ...] = ()
    num_positions: int | None = None

    @property
    def name(self) -> str:
        """Name of the part, such as `b-value 1000 s/mm2, time 2 of 10`; empty if the series is one volume."""
        return ", ".join(self.names)

    def named(self, name: str) -> Subseries:
        """Return the same volume with `name` added in front of its names."""
        return replace(self, names=(name, *self.names))

    def check_whole(self) -> None:
        """Check that the volume of one time point has as many slices as those of other time points.

        Raises:
            GeometryError: If positions are missing, as after an aborted acquisition.
        """
        if self.num_positions is not None and len(self.planes) < self.num_positions:
            raise GeometryError(
                f"{len(self.planes)} slices, but the series has {self.num_positions} positions: are slices missing?"
            )


@dataclass(frozen=True)
class Separated:
    """Series separated into stacks of parallel planes; scouts (localizers) are separate planes."""

    stacks: tuple[tuple[Header, ...], ...]
    scouts: tuple[Header, ...]


def separate(planes: Sequence[Header]) -> Separated:
    """Return the stacks of parallel planes of equal size and pixel spacing, and the scouts (localizers) among them.

    Raises:
        GeometryError: If a single plane is not a scout, as in a series of mixed orientations.
    """
    if any(not plane.has_place for plane in planes):
        return Separated((tuple(planes),), ())
    stacks = [stack for alike in _alike(planes) for stack in _by_stack_id(alike)]
    if len(stacks) == 1:
        return Separated(tuple(map(tuple, stacks)), ())
    lone = [stack[0] for stack in stacks if len(stack) == 1]
    for plane in lone:
        others = [stack[0] for stack in stacks if stack[0] is not plane]
        if min(_degrees(plane, other) for other in others) < SCOUT_DEGREES:
            raise GeometryError(_mixed(stacks))
    return Separated(tuple(tuple(stack) for stack in stacks if len(stack) > 1), tuple(lone))


def parts(stack: Sequence[Header]) -> list[Subseries]:
    """Return the volumes of a stack, each with at most one plane per position.

    Raises:
        GeometryError: If neither traits nor instance numbers separate the planes at one position.
    """
    if any(not plane.has_place for plane in stack):
        return [Subseries(tuple(stack))]
    names = [trait.name for trait in TRAITS]
    names += sorted({name for plane in stack for name, _ in plane.traits} - BY_NAME.keys())
    return _parts(list(stack), names)


def _parts(planes: list[Header], names: Sequence[str]) -> list[Subseries]:
    positions = _positions(planes)
    counts = np.bincount(positions)
    if counts.max() == 1:
        return _stacks(planes) or [Subseries(tuple(planes))]
    for n, name in enumerate(names):
        values = [dict(plane.traits).get(name) for plane in planes]
        if not _vary(positions, values):
            continue
        is_time = name in BY_NAME and BY_NAME[name].is_time
        if len(set(values)) <= counts.max():
            groups = _grouped(planes, values)
        elif is_time and (ranks := _ranks(positions, values)) is not None:
            groups = _grouped(planes, ranks)
        else:
            continue
        labels = _labels(name, list(groups))
        # Acquisitions may cover overlapping ranges; other time points repeat all positions.
        is_range = name == "acquisition" and max(map(_num_positions, groups.values())) < len(counts)
        expected = None if is_range else len(counts)
        found = [
            part.named(label)
            for label, group in zip(labels, groups.values(), strict=True)
            for part in _parts(group, names[n + 1 :])
        ]
        return [replace(part, num_positions=expected) for part in found] if is_time else found
    return _stacks(planes) or _by_number(planes, positions, counts)


def _stacks(planes: Sequence[Header]) -> list[Subseries]:
    """Return the volumes of planes that form several parallel stacks side by side.

    The result is empty if the planes form only one stack.
    """
    stacks = side_by_side(planes)
    if len(stacks) == 1:
        return []
    return [
        part.named(f"stack {n} of {len(stacks)}") for n, stack in enumerate(stacks, 1) for part in _parts(stack, ())
    ]


def _by_number(
    planes: list[Header], positions: Int[Array, "planes"], counts: Int[Array, "positions"]
) -> list[Subseries]:
    """Return volumes in the order of instance and frame numbers, for planes that are not separated by an element."""
    ranks = _ranks(positions, [(float(plane.number), float(plane.frame or 0)) for plane in planes])
    if ranks is None:
        low, high = int(counts.min()), int(counts.max())
        each = f"{low} to {high} instances" if low < high else f"{high} instances" + " each" * (len(counts) > 1)
        held = "1 position has" if len(counts) == 1 else f"{len(counts)} positions have"
        raise GeometryError(
            f"{held} {each}, and neither tags nor instance numbers show which belong together: are instances missing?"
        )
    groups = _grouped(planes, ranks)
    return [
        Subseries(tuple(group), (f"volume {n} of {len(groups)} by instance number",))
        for n, group in enumerate(groups.values(), 1)
    ]


def _ranks(positions: Int[Array, "planes"], values: Sequence[DimensionValue | None]) -> list[float] | None:
    """Return the rank of each plane's value among the planes at the same position.

    The result is None if a value is missing, if two planes at a position have the same value, or if the number of
    planes differs between positions.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for n, position in enumerate(positions):
        members[int(position)].append(n)
    if len({len(those) for those in members.values()}) > 1 or None in values:
        return None
    ranks = [0.0] * len(values)
    for those in members.values():
        if len({values[n] for n in those}) < len(those):
            return None
        for rank, n in enumerate(sorted(those, key=lambda n: _order(values[n]))):
            ranks[n] = float(rank)
    return ranks


def _positions(planes: Sequence[Header]) -> Int[Array, "planes"]:
    """Return the position index of each plane, counted along the slice normal."""
    distances = np.array([plane.position_mm for plane in planes]) @ axes_of(planes[0].orientation).normal
    order = np.argsort(distances, kind="stable")
    is_new = np.concatenate([[False], np.diff(distances[order]) > position_tolerance_mm(planes)])
    numbers = np.empty(len(planes), dtype=np.int64)
    numbers[order] = np.cumsum(is_new)
    return numbers


def _num_positions(planes: Sequence[Header]) -> int:
    return int(_positions(planes).max()) + 1


def _vary(positions: Int[Array, "planes"], values: Sequence[DimensionValue | None]) -> bool:
    """Return whether there is a position at which planes differ in their values."""
    first: dict[int, DimensionValue | None] = {}
    return any(
        first.setdefault(int(position), value) != value for position, value in zip(positions, values, strict=True)
    )


def _grouped(
    planes: Sequence[Header], values: Sequence[DimensionValue | None]
) -> dict[DimensionValue | None, list[Header]]:
    groups: dict[DimensionValue | None, list[Header]] = defaultdict(list)
    for plane, value in zip(planes, values, strict=True):
        groups[value].append(plane)
    return dict(sorted(groups.items(), key=lambda pair: _order(pair[0])))


def _order(value: DimensionValue | None) -> tuple[float, tuple[float, ...], str]:
    """Return a sort key for values of any type: None first, then numbers, vectors and words."""
    if value is None:
        return -1.0, (), ""
    if isinstance(value, str):
        return 2.0, (), value
    return (1.0, value, "") if isinstance(value, tuple) else (0.0, (value,), "")


def _labels(name: str, values: Sequence[DimensionValue | None]) -> list[str]:
    """Return a label for each value.

    Labels never contain text typed by a person: free texts are numbered, not quoted.
    """
    if name == "raw data type":
        return [RAW_TYPES.get(value, "other") if isinstance(value, float) else "other" for value in values]
    if name in UNITS:
        known = [f"{value:g} {UNITS[name]}" if isinstance(value, float) else "not stated" for value in values]
        return [f"{name} {label}" for label in known]
    if name in ("image type", "component"):
        meanings = _components(values)
        if len(set(meanings)) == len(meanings) and None not in meanings:
            return [str(meaning) for meaning in meanings]
    return [f"{name} {n} of {len(values)}" for n in range(1, len(values) + 1)]


def _components(values: Sequence[DimensionValue | None]) -> list[str | None]:
    """Return a name for each value, from the words of the value, such as those of ImageType.

    The first known word that not all values share is used. The name is None if there is no such word.
    """
    words = [value.upper().split("\\") if isinstance(value, str) else [] for value in values]
    shared = set(words[0]).intersection(*words)
    known = [[COMPONENTS[word] for word in those if word in COMPONENTS and word not in shared] for those in words]
    return [those[0] if those else None for those in known]


def _alike(planes: Sequence[Header]) -> list[list[Header]]:
    """Group planes by size, pixel spacing and direction, in order of first appearance."""
    layouts = [(plane.rows, plane.columns, plane.spacing_mm or (), plane.orientation or ()) for plane in planes]
    place: Callable[[tuple[float, ...]], int] = _memory([])
    kinds = {one: (*one[:2], tuple(round(mm, 3) for mm in one[2]), place(one[3])) for one in dict.fromkeys(layouts)}
    groups: dict[tuple[object, ...], list[Header]] = defaultdict(list)
    for plane, one in zip(planes, layouts, strict=True):
        groups[kinds[one]].append(plane)
    return list(groups.values())


def _memory(known: list[tuple[float, ...]]) -> Callable[[tuple[float, ...]], int]:
    """Return a function that numbers orientations.

    Orientations that are equal within `AXIS_TOLERANCE` get the same number.
    """
    numbers: dict[tuple[float, ...], int] = {}

    def place(orientation: tuple[float, ...]) -> int:
        if orientation not in numbers:
            near = (n for n, one in enumerate(known) if np.abs(np.subtract(one, orientation)).max() <= AXIS_TOLERANCE)
            numbers[orientation] = next(near, len(known))
            if numbers[orientation] == len(known):
                known.append(orientation)
        return numbers[orientation]

    return place


def _by_stack_id(planes: list[Header]) -> list[list[Header]]:
    """Group planes by (0020,9056) StackID.

    If a stack would have a single plane, all planes form one group: some manufacturers give each plane its own ID.
    """
    groups: dict[str, list[Header]] = defaultdict(list)
    for plane in planes:
        groups[plane.stack].append(plane)
    return [planes] if min(map(len, groups.values())) < 2 else list(groups.values())


def _degrees(one: Header, other: Header) -> float:
    """Return the angle between two planes, 0 to 90 degrees."""
    normals = [axes_of(plane.orientation).normal for plane in (one, other)]
    cosine = abs(float(normals[0] @ normals[1])) / float(np.linalg.norm(normals[0]) * np.linalg.norm(normals[1]))
    return float(np.degrees(np.arccos(min(1.0, cosine))))


def _mixed(stacks: Sequence[Sequence[Header]]) -> str:
    num_lone = sum(len(stack) == 1 for stack in stacks)
    return (
        f"{num_lone} of {sum(map(len, stacks))} slices differ in orientation, size or pixel spacing from all others of "
        "the series, and are not scouts; expected stacks of parallel slices of one size"
    )
