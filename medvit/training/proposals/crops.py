"""Proposed crop size, levels of a U-Net, and share of crops that are centered on foreground."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from medvit.backbones import BackboneConfig
from medvit.backbones.dynunet import DynUNetConfig
from medvit.dataset.fingerprint import Fingerprint
from medvit.dataset.manifest import Manifest
from medvit.heads import HeadConfig
from medvit.heads.own import OwnConfig
from medvit.tasks import TaskName
from medvit.training.finetuning_options import FinetuningOptions
from medvit.training.initialization import InitialModel
from medvit.training.proposals import Proposals
from medvit.training.task import LARGEST_CROP, TaskAssignment, prepared_shape
from medvit.transforms.preprocess import Preprocess

SMALL_FOREGROUND = 0.05
"""Share of foreground below which half of the crops are centered on it, rather than a third (Isensee et al. 2021)."""
RARE_CLASS = 0.1
"""Ratio of the rarest to the most frequent foreground class, in voxels, below which crops favor rare classes."""
UNSUPERVISED_LEVELS = 3
"""Number of levels of a U-Net that get no deep supervision: the highest, whose loss is always used, and the two lowest
(Isensee et al. 2021).
"""


def propose_extent(
    training: Manifest, preprocess: Preprocess, task: TaskName, limits: Mapping[int, int] = LARGEST_CROP
) -> tuple[tuple[int, ...], str]:
    """Return the size of training crops before it is rounded up to whole patches, and the reason.

    For segmentation, it is the median size of the training images after preprocessing (Isensee et al. 2021). For other
    tasks, it is the largest size along each axis, because a label describes the whole image. No side is longer than
    `limits` allows for the number of dimensions.
    """
    shapes = [prepared_shape(row, preprocess) for row in training]
    sides = list(zip(*shapes, strict=True))
    is_dense = task == "segmentation"
    whole = [round(median(axis)) if is_dense else max(axis) for axis in sides]
    limit = limits[len(whole)]
    name = "median" if is_dense else "largest"
    reason = f"the {name} training image has {_sides(whole)} {'pixels' if len(whole) == 2 else 'voxels'}"
    reason += " after preprocessing"
    if max(whole) > limit:
        reason += f", and a side has at most {limit}"
    return tuple(min(side, limit) for side in whole), reason


def round_up(extent: Sequence[int], patch_size: Sequence[int]) -> tuple[int, ...]:
    """Return a size rounded up to whole patches."""
    return tuple(-(-side // patch) * patch for side, patch in zip(extent, patch_size, strict=True))


def record_plan(proposals: Proposals, given: BackboneConfig, planned: BackboneConfig, extent: tuple[int, ...]) -> None:
    """Add proposals for the network options that were derived from crop and spacing, such as those of a DynUNet."""
    if not planned.FOLLOWS_CROP or type(given) is not type(planned):
        return
    for key in sorted(planned.PLANNED):
        if getattr(given, key) is None:
            reason = f"it is planned for crops of {_sides(extent)} and the median spacing, as in nnU-Net"
            proposals.add(f"backbone.{key}", getattr(planned, key), reason)


def propose_levels(proposals: Proposals, head: HeadConfig, start: InitialModel) -> HeadConfig:
    """Return the options of a head, with deep supervision of a DynUNet as in nnU-Net if it is unset."""
    if not isinstance(head, OwnConfig) or not isinstance(start.config, DynUNetConfig):
        return head
    count = proposals.fill("head.num_supervised", head.num_supervised, lambda: _levels(start.backbone.depth))
    return head.model_copy(update={"num_supervised": count})


def _levels(depth: int) -> tuple[int, str]:
    return max(0, depth - UNSUPERVISED_LEVELS), f"of the {depth} levels, all but the two lowest are supervised"


@dataclass(frozen=True)
class ForegroundCrops:
    """Fraction of the training crops that are centered on a foreground voxel, and the choice of that voxel."""

    share: float | None = None
    by: Literal["voxel", "class"] | None = None


def propose_foreground(proposals: Proposals, options: FinetuningOptions, task: TaskAssignment) -> ForegroundCrops:
    """Return the options for crops on foreground; unset ones are proposed for segmentation, else left unset."""
    share, choice = options.foreground, options.foreground_by
    if task.kind != "segmentation":
        return ForegroundCrops(share, choice)
    return ForegroundCrops(
        proposals.fill("foreground", share, lambda: _foreground(proposals.fingerprint)),
        proposals.fill("foreground_by", choice, lambda: _foreground_by(proposals.fingerprint)),
    )


def _foreground(fingerprint: Fingerprint) -> tuple[float, str]:
    share = fingerprint.foreground_share
    if share is None:
        return 0.5, "no voxel of the label maps has a class"
    if share < SMALL_FOREGROUND:
        return 0.5, f"only {100 * share:.2g} % of the voxels are foreground"
    return 0.33, f"{100 * share:.2g} % of the voxels are foreground, so that most crops contain some"


def _foreground_by(fingerprint: Fingerprint) -> tuple[Literal["voxel", "class"], str]:
    counts = {entry.name: entry.voxels_per_map for entry in fingerprint.classes[1:] if entry.num_voxels}
    if len(counts) < 2:
        return "voxel", "there is one foreground class"
    rarest = min(counts, key=lambda name: counts[name])
    ratio = counts[rarest] / max(counts.values())
    reason = (
        f"the rarest class, {rarest}, has {100 * ratio:.2g} % of the voxels of the most frequent one in a label map"
    )
    return ("class" if ratio < RARE_CLASS else "voxel"), reason


def _sides(values: Sequence[int]) -> str:
    return " x ".join(map(str, values))
