"""Regions: overlapping unions of classes that a segmentation predicts instead of exclusive classes, as in nnU-Net.

In brain tumors, for example, the whole tumor contains the core, and the core contains the enhancing tumor. Each region
has a probability of its own. A label map is made from the regions in order: each region writes its class
into the map and overwrites earlier regions (Isensee et al., BrainLes 2020).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medvit.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

PRESENT = 0.5
"""Probability above which a pixel is in a region."""


@dataclass(frozen=True)
class Regions:
    """Regions of the classes of a label map."""

    names: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]
    """Label-map values of the classes in each region."""
    written: tuple[int, ...]
    """Label-map value of the class that each region writes."""

    @classmethod
    def of(cls, regions: Mapping[str, Sequence[str]], order: Sequence[str], classes: Sequence[str]) -> Regions:
        """Return the regions, with class names replaced by label-map values; the first of `classes` is the background.

        `regions` lists the classes in each region, and `order` the class that each region writes.

        Raises:
            ConfigError: If a name is not a foreground class, or a class cannot be restored from its regions.
        """
        named = [name for names in regions.values() for name in names]
        unknown = [name for name in (*named, *order) if name not in classes[1:]]
        if unknown:
            raise ConfigError(
                f"regions and regions_class_order name {unknown[0]!r}; expected foreground classes of the dataset: "
                f"{', '.join(classes[1:])}"
            )
        numbers = {name: number for number, name in enumerate(classes)}
        members = tuple(tuple(sorted({numbers[name] for name in names})) for names in regions.values())
        made = cls(tuple(regions), members, tuple(numbers[name] for name in order))
        for number, name in enumerate(classes[1:], start=1):
            found = made._class_of([number in one for one in members])
            if found != number:
                raise ConfigError(
                    f"pixels of the class {name} would become {classes[found]} by regions and regions_class_order; "
                    "each class must be in a region, and in the last region that writes it"
                )
        return made

    def label_map(self, probabilities: Float[Tensor, "b r *s"]) -> Int[Tensor, "b *s"]:
        """Return the label map of the probabilities of the regions."""
        import torch

        labels = torch.zeros(probabilities[:, 0].shape, dtype=torch.long, device=probabilities.device)
        for number, probability in zip(self.written, probabilities.unbind(dim=1), strict=True):
            labels[probability > PRESENT] = number
        return labels

    def _class_of(self, is_inside: Sequence[bool]) -> int:
        """Return the class of a pixel, given whether it is in each region."""
        inside = [number for number, is_in in zip(self.written, is_inside, strict=True) if is_in]
        return inside[-1] if inside else 0
