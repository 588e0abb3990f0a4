"""Base of DINOv2 and SimDINOv2: block masks on the student's global crops, Gram anchoring, resolution curriculum."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from medvit.backbones import Backbone, Hidden
from medvit.config import Config, Count, Positive, Share
from medvit.distributed import num_processes, process
from medvit.losses.distillation import mask_weights
from medvit.losses.gram import gram_loss
from medvit.objectives import MASK_TOKEN
from medvit.objectives._projection import Projection
from medvit.objectives._student_teacher import Distillation, DistillationConfig, seen_of, summary, tokens_of
from medvit.transforms.curriculum import CurriculumConfig
from medvit.transforms.masking import draw_masks
from medvit.transforms.views import MaskedViewsConfig
from medvit.types import Tokens, Views


class MaskingConfig(Config):
    """Masking of patches in the student's global crops (Zhou et al., ICLR 2022)."""

    share: Share = 0.5
    """Fraction of the global crops in which patches are masked. At least one crop is masked."""
    ratios: tuple[Share, Share] = (0.1, 0.5)
    """Smallest and largest fraction of patches to mask in a crop. The masked crops of a batch have evenly spaced
    fractions in this range.
    """


class GramConfig(Config):
    """Gram anchoring: late in training, patch similarities remain close to an anchor model's (Simeoni et al., 2025)."""

    RENAMED: ClassVar[Mapping[str, str]] = {"finer": "upscale"}

    weight: Positive = 2.0
    """Weight of the Gram loss (DINOv3). This loss keeps the similarities between patches close to those of another
    model, the anchor. The Gram loss is used only if an option in gram is set.
    """
    start: Share = 0.5
    """Fraction of the training run after which the Gram loss is added."""
    anchor: Literal["start", "teacher"] = "teacher"
    """Model whose patch similarities the student should keep. start: the model with the initial weights of this run.
    teacher: a copy of the teacher from the step at which the Gram loss is added.
    """
    refresh: Share = 0.0
    """Interval at which the anchor is replaced by the current teacher, as a fraction of the training run. The value 0
    never replaces the anchor.
    """
    max_refreshes: Count = 3
    """Maximum number of times the anchor is replaced."""
    clip_negative: bool = True
    """Set negative similarities of patches to zero. The 7B configuration of DINOv3 does not do this."""
    upscale: Count = 1
    """Resolution of the anchor's crops relative to those of the student. DINOv3 uses 2. The cost grows with the square
    of this factor, in 3D with its cube.
    """
    max_patches: Count = 2048
    """Maximum number of randomly drawn patches per crop to compare. Memory grows with the square of this number."""

    def moves(self, progress: float) -> int:
        """Return how many times the teacher has become the anchor by a training progress in [0, 1]."""
        if progress < self.start:
            return 0
        refreshes = int((progress - self.start) / self.refresh + 1e-9) if self.refresh else 0
        return min(self.max_refreshes, refreshes) + int(self.anchor == "teacher")


class MaskedConfig(DistillationConfig):
    """Options of self-distillation on images and masked patches."""

    OPTIM: ClassVar[Mapping[str, object]] = {
        "lr": 1e-3,
        "scaling": "sqrt",
        "weight_decay": 0.04,
        "weight_decay_end": 0.2,
        "betas": (0.9, 0.999),
        "patch_embed_scale": 0.2,
    }

    masking: MaskingConfig = Field(default_factory=MaskingConfig)
    patch_weight: Positive = 1.0
    """Weight of the loss on masked patches."""
    patch_head: Literal["shared", "separate"] = "shared"
    """Projection head of the patches. shared: the same head as for images. separate: a second head."""
    gram: GramConfig | None = None
    """Gram anchoring of the patch features. Unset: no anchoring."""
    curriculum: CurriculumConfig | None = None
    """Resolution curriculum, from low to high. Unset: full resolution throughout."""
    views: MaskedViewsConfig = Field(default_factory=MaskedViewsConfig)

    @property
    def head_parts(self) -> tuple[str, ...]:
        """Names of the heads: `image`, and `patch` if patches have a separate head."""
        return ("image", "patch") if self.patch_head == "separate" else ("image",)

    def heads(self, width: int) -> dict[str, Projection]:
        """Return the head for images and, if it is separate, the head for patches."""
        return {
            name: self.head.build(width, part=name, with_prototypes=self.HAS_PROTOTYPES) for name in self.head_parts
        }


@dataclass(frozen=True)
class TeacherStudentTokens:
    """Tokens of teacher and student for a batch, before their heads.

    `teacher_images` (2B, D) and `student_images` (V * B, D) are ordered view by view, global views first.
    `teacher_patches` and `student_patches` (M, D) are the tokens of the patches that are masked for the student.
    `weights` (M) are their weights in the loss, whose sum is the same for every crop.
    """

    teacher_images: Float[Tensor, "n d"]
    student_images: Float[Tensor, "m d"]
    teacher_patches: Float[Tensor, "k d"]
    student_patches: Float[Tensor, "k d"]
    weights: Float[Tensor, "k"]
    num_images: int
    num_crops: int
    extra: Mapping[str, Tensor]

    @property
    def global_images(self) -> Float[Tensor, "v b d"]:
        """Student's class tokens (or mean patch tokens) of the global crops."""
        return self.student_images[: self.num_crops].unflatten(0, (-1, self.num_images))


class MaskedDistillation(Distillation):
    """Self-distillation with masked global crops for the student."""

    anchor_moves: Tensor

    def __init__(self, backbone: Backbone, config: MaskedConfig, heads: Mapping[str, Projection]) -> None:
        super().__init__(backbone, config, heads)
        self.masked = config
        if config.gram is not None:
            self.views = config.views.model_copy(update={"upscale": config.gram.upscale})
        known = backbone.mask_token
        self.student.mask_token = nn.Parameter(torch.zeros(backbone.width) if known is None else known.clone())
        self.anchor = copy.deepcopy(self.backbone) if config.gram else None
        self.register_buffer("anchor_moves", torch.zeros((), dtype=torch.long))

    def kept(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Return the teacher's heads and the student's mask token."""
        return {**super().kept(), MASK_TOKEN: {"mask_token": self.student.mask_token.detach()[None]}}

    def look(self, views: Views, progress: float) -> TeacherStudentTokens:
        """Run the teacher on the global crops, and the student on the masked global crops and the local crops."""
        if self.masked.curriculum is not None:
            views = self.masked.curriculum.applied(views, progress, self.backbone.patch_size)
        crops, fine, token = views.crops.flatten(0, 1), views.fine, self.student.mask_token
        num_views, num_images = views.crops.shape[:2]
        mask = self.draw_masks(num_views, num_images, self.backbone.grid_of(crops)).to(crops.device)
        with torch.no_grad():
            taught_images, taught_patches = seen_of(self.backbone, crops, mask)
        seen = None
        if self._is_anchored(progress):
            seen = tokens_of(self.student.backbone, crops, Hidden(mask, token))
            image, patches = summary(seen), seen.patches[mask]
        else:
            image, patches = seen_of(self.student.backbone, crops, mask, Hidden(mask, token))
        images = [image]
        if views.local is not None:
            images.append(seen_of(self.student.backbone, views.local.flatten(0, 1))[0])
        return TeacherStudentTokens(
            taught_images,
            torch.cat(images),
            taught_patches,
            patches,
            mask_weights(mask),
            num_images=num_images,
            num_crops=len(crops),
            extra={} if seen is None else self._anchored(crops if fine is None else fine.flatten(0, 1), seen),
        )

    def draw_masks(self, num_views: int, num_images: int, grid: tuple[int, ...]) -> Bool[Tensor, "b n"]:
        """Return the mask of each crop for the student, view by view, drawn by torch's generator.

        If all processes start with the same seed, image i of process r gets the mask of image i * processes + r of the
        joint batch.
        """
        joint, own = num_images * num_processes(), range(process(), num_images * num_processes(), num_processes())
        rows = [view * joint + image for view in range(num_views) for image in own]
        masking, seed = self.masked.masking, int(torch.randint(2**31, ()))
        return draw_masks(rows, num_views * joint, grid, share=masking.share, ratios=masking.ratios, seed=seed)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Update the teacher, and replace the anchor when that is due."""
        super().after_step(progress)
        if self.anchor is None or self.masked.gram is None:
            return
        due = self.masked.gram.moves(progress)
        if int(self.anchor_moves) < due:
            self.anchor.load_state_dict(self.backbone.state_dict())
            self.anchor_moves.fill_(due)

    def train(self, mode: bool = True) -> MaskedDistillation:
        """Set training or evaluation mode; teacher and anchor never use drop path."""
        super().train(mode)
        anchor = getattr(self, "anchor", None)  # the base constructor sets the mode before they exist
        if anchor is not None:
            anchor.eval()
        return self

    def _is_anchored(self, progress: float) -> bool:
        return self.masked.gram is not None and progress >= self.masked.gram.start

    def _anchored(self, crops: Tensor, seen: Tokens) -> Mapping[str, Tensor]:
        options = self.masked.gram
        assert self.anchor is not None
        assert options is not None
        with torch.no_grad():
            wanted = coarsened(tokens_of(self.anchor, crops), seen.grid)
        patches = seen.patches
        if patches.shape[1] > options.max_patches:
            chosen = torch.randperm(patches.shape[1], device=patches.device)[: options.max_patches]
            patches, wanted = patches[:, chosen], wanted[:, chosen]
        return {"gram": options.weight * gram_loss(patches, wanted, clip_negative=options.clip_negative)}


def coarsened(tokens: Tokens, grid: tuple[int, ...]) -> Float[Tensor, "b m d"]:
    """Return patch tokens of a fine grid, resampled to the coarser `grid`.

    In 2D, interpolation is bicubic as in DINOv3; in 3D, tokens are averaged.
    """
    if tokens.grid == grid:
        return tokens.patches
    maps = tokens.patches.float().transpose(1, 2).unflatten(2, tokens.grid)
    if len(grid) == 2:
        maps = F.interpolate(maps, size=grid, mode="bicubic", antialias=True)
    else:
        maps = F.interpolate(maps, size=grid, mode="area")
    return maps.flatten(2).transpose(1, 2)
