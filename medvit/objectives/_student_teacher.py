"""Base of the DINO family: a student is trained on the outputs of a teacher, its exponential moving average."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor, nn

from medvit.backbones import Backbone, Hidden
from medvit.config import Share
from medvit.distributed import part
from medvit.losses.distillation import relative_entropy
from medvit.objectives import Objective, ObjectiveConfig
from medvit.objectives._averages import PublishedAverage, described
from medvit.objectives._projection import OFF, Projection, ProjectionConfig, head_file
from medvit.objectives._schedules import cosine
from medvit.objectives.figures import similarity_figure
from medvit.transforms.views import MultiCropConfig
from medvit.types import RunLength, Tokens, Views

log = logging.getLogger("medvit")


class DistillationConfig(ObjectiveConfig):
    """Options of every objective with a teacher."""

    head: ProjectionConfig = Field(default_factory=ProjectionConfig)
    """Head of student and teacher."""
    momentum: Share | None = None
    """Momentum of the teacher's moving average at the start of the training run. Unset: the published value, scaled to
    the batch size so that the teacher averages over as many images as in the paper. In short runs, it is lowered so
    that the teacher averages over at most a tenth of the steps.
    """
    momentum_end: Share = 1.0
    """Momentum of the teacher's moving average at the end of the run, reached along a cosine schedule."""
    freeze_prototypes: Share = 0.01
    """Fraction of the training run, at its start, in which the prototypes are frozen."""
    views: MultiCropConfig = Field(default_factory=MultiCropConfig)

    HAS_TEACHER: ClassVar[bool] = True
    HAS_PROTOTYPES: ClassVar[bool] = True
    PUBLISHED_MOMENTUM: ClassVar[PublishedAverage] = PublishedAverage(0.996, step_images=1024)
    """Published momentum of the teacher (Caron et al., ICCV 2021); used as it is if there is no training run to scale
    it to.
    """

    @property
    def head_parts(self) -> tuple[str, ...]:
        """Names of the heads: `image`, and `patch` in objectives with a separate head for patches."""
        return ("image",)

    @property
    def has_new_head(self) -> bool:
        """Whether the heads are initialized at random."""
        return self.head.weights in (None, OFF)

    def continued(self, folder: Path) -> Self:
        """Return the options with the heads of a checkpoint, if it has any."""
        head = self.head.kept_in(folder, self.head_parts, with_prototypes=self.HAS_PROTOTYPES)
        return self if head is self.head else self.model_copy(update={"head": head})

    def fitted(self, length: RunLength) -> Self:
        """Return the options with the number of prototypes and the momentum that suit a training run."""
        changes: dict[str, object] = {}
        if self.HAS_PROTOTYPES:
            changes["head"] = self.head.fitted(length.num_images)
        if self.momentum is None:
            changes["momentum"] = momentum = self.PUBLISHED_MOMENTUM.for_teacher(length)
            log.info("Momentum of the teacher: %s", described(momentum, length.step_images))
        return self.model_copy(update=changes)


class Student(nn.Module):
    """Backbone and heads that gradients update, and the mask token if there is one."""

    mask_token: nn.Parameter

    def __init__(self, backbone: Backbone, heads: nn.ModuleDict) -> None:
        super().__init__()
        self.backbone, self.heads = backbone, heads


class Distillation(Objective):
    """Student and teacher.

    The backbone saved after training is the teacher's, as in the papers, because it performs better.

    The given backbone becomes the teacher, and the student starts as a copy of it. Only the student has gradients.
    """

    def __init__(self, backbone: Backbone, config: DistillationConfig, heads: Mapping[str, Projection]) -> None:
        super().__init__()
        self.views = config.views
        self.schedule = config
        self.momentum = config.PUBLISHED_MOMENTUM.momentum if config.momentum is None else config.momentum
        self.student = Student(copy.deepcopy(backbone), nn.ModuleDict(heads))
        self.backbone = backbone.requires_grad_(False)
        self.teacher_heads = copy.deepcopy(self.student.heads).requires_grad_(False)
        self._readings: dict[str, Tensor] = {}
        self.train()

    @property
    def trained(self) -> Backbone:
        """Backbone of the student."""
        return self.student.backbone

    def parts(self) -> Sequence[Sequence[nn.Parameter]]:
        """Return the parameters in groups, for separate gradient clipping (Oquab et al., TMLR 2024).

        There is a group for each head, and one for all other parameters of the student.
        """
        heads = [list(head.parameters()) for head in self.student.heads.values()]
        of_heads = {id(weight) for head in heads for weight in head}
        return ([weight for weight in self.parameters() if id(weight) not in of_heads], *heads)

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; the teacher never uses drop path."""
        super().train(mode)
        self.backbone.eval()
        self.teacher_heads.eval()
        return self

    def before_step(self, progress: float) -> None:
        """Drop the gradients of the prototypes while they are frozen."""
        if progress < self.schedule.freeze_prototypes:
            for head in self.student.heads.values():
                if getattr(head, "prototypes", None) is not None:
                    head.prototypes.grad = None

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Update the teacher from the student."""
        momentum = cosine(self.momentum, self.schedule.momentum_end, progress)
        pairs = [(part(own), part(new)) for own, new in self._pairs()]
        torch._foreach_lerp_([own for own, _ in pairs], [new for _, new in pairs], 1.0 - momentum)

    def readings(self) -> Mapping[str, Tensor]:
        """Return `teacher_entropy` as a fraction of its maximum, if there are prototypes."""
        return self._readings

    def kept(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Return the teacher's heads, for continued pretraining.

        Without them, continued pretraining would begin with random targets.
        """
        return {head_file(name): head.published() for name, head in self._teachers()}

    @torch.no_grad()
    def pictures(self, views: Views) -> dict[str, Figure]:
        """Draw the teacher's similarity of each patch to the middle patch, for up to four images."""
        pixels = views.crops[0][:4]
        return {"similarity": similarity_figure(pixels.float(), self.backbone(pixels))}

    def read_targets(self, targets: Float[Tensor, "n k"]) -> None:
        """Store the entropy of the teacher's targets, to be logged."""
        self._readings = {"teacher_entropy": relative_entropy(targets.detach())}

    def _teachers(self) -> Iterator[tuple[str, Projection]]:
        for name, head in self.teacher_heads.items():
            assert isinstance(head, Projection)
            yield name, head

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each teacher weight with its student weight, for the weights that training changes."""
        students = (self.student.backbone, self.student.heads)
        for teacher, student in zip((self.backbone, self.teacher_heads), students, strict=True):
            for own, new in zip(teacher.parameters(), student.parameters(), strict=True):
                if new.requires_grad:
                    yield own, new


def tokens_of(backbone: Backbone, pixels: Float[Tensor, "b c *s"], hidden: Hidden | None = None) -> Tokens:
    """Return the tokens of images after the last block.

    Patches in `hidden` are replaced by the mask token before the first block.
    """
    patches, grid = backbone.embed(pixels, hidden)
    tokens = backbone.encode(patches, grid=grid)
    return Tokens(tokens[:, : backbone.num_prefix_tokens], tokens[:, backbone.num_prefix_tokens :], grid)


def seen_of(
    backbone: Backbone,
    pixels: Float[Tensor, "b c *s"],
    mask: Bool[Tensor, "b n"] | None = None,
    hidden: Hidden | None = None,
) -> tuple[Float[Tensor, "b d"], Float[Tensor, "m d"]]:
    """Return the class token (or mean patch token) of each image, and the patch tokens where `mask` is True.

    If there is a class token, the last block computes only these tokens. Patches in `hidden` are replaced by the mask
    token.
    """
    num_prefix = backbone.num_prefix_tokens
    if backbone.has_channel_tokens:
        assert mask is None, "objectives on single patches do not accept tokens of channels"
        whole: Tokens = backbone(pixels)
        return summary(whole), whole.patches[:, :0].flatten(0, 1)
    if not num_prefix:
        tokens = tokens_of(backbone, pixels, hidden)
        return summary(tokens), tokens.patches[:, :0].flatten(0, 1) if mask is None else tokens.patches[mask]
    patches, grid = backbone.embed(pixels, hidden)
    wanted = torch.zeros(len(patches), num_prefix + patches.shape[1], dtype=torch.bool, device=patches.device)
    wanted[:, 0] = True
    if mask is not None:
        wanted[:, num_prefix:] = mask
    found = backbone.encode_some(patches, grid=grid, wanted=wanted)
    is_image = wanted.nonzero()[:, 1] == 0
    return found[is_image], found[~is_image]


def summary(tokens: Tokens) -> Float[Tensor, "b d"]:
    """Return the class token of each image, or the mean of its patches if the backbone has no prefix token."""
    return tokens.prefix[:, 0] if tokens.prefix.shape[1] else tokens.patches.mean(dim=1)


def by_view(values: Float[Tensor, "n d"], num_images: int) -> Float[Tensor, "v b d"]:
    """Reshape rows that are ordered view by view to (views, images, features)."""
    return values.unflatten(0, (-1, num_images))
