"""Images of a source by kind and modality, with their number, studies and sizes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from medvit import readers
from medvit.errors import MedvitError
from medvit.records import Candidate, Extent, Kind, Refusal

MAX_LOOKED = 500
"""Maximum number of images of a group whose size is read, evenly spread over the group: a picture takes 0.1 ms, a slide
10 ms.
"""
WEIGHTS = {"image": 1, "volume": 50, "slide": 500}
"""Weight of an image for choosing one kind: about the number of pictures that can be cut from it."""


@dataclass(frozen=True)
class ImageGroup:
    """Images of one kind and modality; `extents` are the sizes of the images whose headers were read."""

    kind: Kind
    modality: str
    candidates: tuple[Candidate, ...] = field(repr=False)
    extents: tuple[Extent, ...]

    @property
    def num_studies(self) -> int:
        """Number of distinct studies; 0 if the files state none."""
        return len({(one.patient.id, one.item.identity.study) for one in self.candidates if one.item.identity.study})

    @property
    def num_series(self) -> int:
        """Number of distinct DICOM series; 0 if the files state none."""
        dicom = (one for one in self.candidates if one.item.identity.study)
        return len({(one.patient.id, one.item.identity.study, one.item.identity.series) for one in dicom})

    @property
    def num_masks(self) -> int:
        """Number of images with a label map."""
        return sum(one.item.mask is not None for one in self.candidates)

    @property
    def num_labeled(self) -> int:
        """Number of images with labels."""
        return sum(bool(one.labels) for one in self.candidates)

    @property
    def weight(self) -> int:
        """Amount of training data in the group, for comparing it with other groups."""
        return WEIGHTS[self.kind] * len(self.candidates)

    @property
    def channels(self) -> int:
        """Largest number of channels of an image."""
        return max((one.channels for one in self.extents), default=3 if self.kind == "slide" else 1)

    @property
    def is_8_bit(self) -> bool:
        """Whether all images are known to have 8 bits per sample."""
        return bool(self.extents) and all(one.bits == 8 for one in self.extents)

    @property
    def spacings_mm(self) -> tuple[tuple[float, float, float], ...]:
        """Spacings (mm) along R, A and S of the volumes that have a spacing."""
        return tuple(one.spacing_mm for one in self.extents if one.spacing_mm is not None)

    @property
    def median_spacing_mm(self) -> tuple[float, float, float] | None:
        """Median spacing (mm) along R, A and S; None if no image has a spacing."""
        if not self.spacings_mm:
            return None
        right, anterior, superior = (median(axis) for axis in zip(*self.spacings_mm, strict=True))
        return right, anterior, superior

    @property
    def median_shape(self) -> tuple[int, ...]:
        """Median size along each axis; empty if unknown."""
        return tuple(round(median(axis)) for axis in zip(*(one.shape for one in self.extents), strict=True))


def groups(candidates: Iterable[Candidate], modality: str = "") -> tuple[tuple[ImageGroup, ...], tuple[Refusal, ...]]:
    """Return images grouped by kind and modality, largest group first, and refusals of images whose size is unknown.

    `modality` applies to files that state none.
    """
    sorted_out: dict[tuple[Kind, str], list[Candidate]] = defaultdict(list)
    for one in candidates:
        sorted_out[one.item.kind, one.item.modality or modality].append(one)
    found: list[ImageGroup] = []
    refusals: list[Refusal] = []
    for (kind, code), members in sorted_out.items():
        extents, refused = _extents(members)
        refusals += refused
        lost = {refusal.files for refusal in refused}
        kept = tuple(one for one in members if one.item.files not in lost)
        if kept:
            found.append(ImageGroup(kind, code, kept, extents))
    found.sort(key=lambda group: (-group.weight, group.kind, group.modality))
    return tuple(found), tuple(refusals)


def _extents(candidates: Sequence[Candidate]) -> tuple[tuple[Extent, ...], list[Refusal]]:
    step = max(1, -(-len(candidates) // MAX_LOOKED))
    extents: list[Extent] = []
    refusals: list[Refusal] = []
    for one in candidates[::step]:
        try:
            found = readers.extent(one.item)
        except MedvitError as error:
            refusals.append(one.refused(error.code, str(error)))
        else:
            extents += [] if found is None else [found]
    return tuple(extents), refusals
