"""Subgroups of an evaluation: metrics by an attribute of the images, such as scanner, site, sex or age.

`grouping` assigns images to groups, `main_metrics` chooses the metrics, `analysis` computes them with their gaps, and
`findings` states the largest gap in words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medvit.attributes import attribute_title
from medvit.patients import PatientCount
from medvit.statistics import Estimate

ATTRIBUTES = "Subgroups"
"""Title of the analysis by attributes of the images."""


@dataclass(frozen=True)
class Subgroup:
    """Images with the same value of an attribute, and how they differ from all other images.

    `gaps` are metrics of the group minus those of all other images.
    """

    attribute: str
    name: str
    num_items: int
    num_positives: int | None
    """Images of the positive class, images with an event, or images with a structure; None for other tasks."""
    patients: PatientCount
    metrics: Mapping[str, Estimate]
    gaps: Mapping[str, Estimate]
    doubts: tuple[str, ...] = ()
    """Reasons why the group is too small for reliable numbers; empty if it is not."""

    @property
    def is_small(self) -> bool:
        """Whether the group is too small for reliable numbers."""
        return bool(self.doubts)

    def __str__(self) -> str:
        return f"{attribute_title(self.attribute)}: {self.name}"


@dataclass(frozen=True)
class SubgroupAnalysis:
    """Subgroups of an evaluation, sorted: the largest disadvantage first, small groups after all others."""

    title: str
    note: str
    main: str
    """Key of the metric by which groups are sorted and drawn."""
    groups: tuple[Subgroup, ...]
    alike: Mapping[str, str]
    """Attributes with the same value in all images, which allow no comparison."""

    @property
    def compared(self) -> tuple[Subgroup, ...]:
        """Groups that are not small and have an interval of their gap.

        If an attribute has two groups, each is the rest of the other, so only the first one is included.
        """
        num_groups = Counter(group.attribute for group in self.groups)
        found: dict[tuple[str, str], Subgroup] = {}
        for group in self.groups:
            gap = group.gaps.get(self.main)
            if not group.is_small and gap is not None and np.isfinite([gap.low, gap.high]).all():
                found.setdefault((group.attribute, "" if num_groups[group.attribute] == 2 else group.name), group)
        return tuple(found.values())
