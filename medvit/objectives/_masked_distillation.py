"""What DINOv2 and SimDINOv2 share: block masks on the student's global crops, an anchor for patches, a curriculum."""

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
from medvit.transforms.intensity import IntensityAugmentation
from medvit.transforms.masking import draw_masks
from medvit.transforms.views import MultiCropConfig
from medvit.types import Tokens, Views


class MaskingConfig(Config):
    """Which patches of global crops the student does not see (Zhou et al., ICLR 2022)."""

    share: Share = 0.5
    """Share of the global crops that are masked, at least one."""
    ratios: tuple[Share, Share] = (0.1, 0.5)
    """Smallest and largest share of patches masked in a crop, spread evenly over the masked crops."""


class GramConfig(Config):
    """Which patches are alike stays as an anchor has it, as a later stage of training (Simeoni et al., 2025)."""

    RENAMED: ClassVar[Mapping[str, str]] = {"finer": "upscale"}

    weight: Positive = 2.0
    """Factor of the loss."""
    start: Share = 0.5
    """Share of the training from which it counts."""
    anchor: Literal["start", "teacher"] = "teacher"
    """start: the weights this run starts from; teacher: the teacher at `start`."""
    refresh: Share = 0.0
    """Share of the training after which the anchor becomes the teacher of that time, again and again; 0 never."""
    max_refreshes: Count = 3
    """How often at most."""
    clip_negative: bool = True
    """Whether patches that are opposite count as unlike; the 7B recipe of DINOv3 has it off."""
    upscale: Count = 1
    """The anchor sees the crops with so many times their sides, and its patches are averaged down to the student's; 2
    in DINOv3. Its passes take the square of it, or in 3D the cube."""
    max_patches: Count = 2048
    """Patches of a crop that are compared, drawn at random where there are more: memory grows with their square."""

    def moves(self, progress: float) -> int:
        """How often the anchor has become the teacher at a share of the training."""
        if progress < self.start:
            return 0
        refreshes = int((progress - self.start) / self.refresh + 1e-9) if self.refresh else 0
        return min(self.max_refreshes, refreshes) + int(self.anchor == "teacher")


def masked_views() -> MultiCropConfig:
    """Crops as in DINOv2: global ones of 0.32 to 1, local ones of 0.05 to 0.32 of an image.

    The published code turns the chance of blur over: it never smooths the first crop, and the second one in 0.9.
    """
    blur = IntensityAugmentation(blur_chances=(0.0, 0.9, 0.5))
    return MultiCropConfig(scale=(0.32, 1.0), local_scale=(0.05, 0.32), intensity=blur)


class MaskedConfig(DistillationConfig):
    """Options of distillation of images and of masked patches."""

    masking: MaskingConfig = Field(default_factory=MaskingConfig)
    patch_weight: Positive = 1.0
    """Factor of the loss at masked patches."""
    patch_head: Literal["shared", "separate"] = "shared"
    """Whether patches have the head of images or one of their own."""
    gram: GramConfig | None = None
    """Anchoring of the patches. Unset: none."""
    curriculum: CurriculumConfig | None = None
    """From low to high resolution; none trains at full resolution all the time."""
    views: MultiCropConfig = Field(default_factory=masked_views)

    @property
    def head_parts(self) -> tuple[str, ...]:
        """Images and, if separate, patches."""
        return ("image", "patch") if self.patch_head == "separate" else ("image",)

    def heads(self, width: int) -> dict[str, Projection]:
        """Return the head of images and, if separate, that of patches."""
        return {
            name: self.head.build(width, part=name, with_prototypes=self.HAS_PROTOTYPES) for name in self.head_parts
        }


@dataclass(frozen=True)
class TeacherStudentTokens:
    """What teacher and student see in a batch, before their heads.

    `teacher_images` (2B, D) and `student_images` (V * B, D) stand view by view, the global ones first.
    `teacher_patches` and `student_patches` (M, D) are those the student does not see, `weights` (M) count each crop
    once.
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
        """The student's summaries of the global crops."""
        return self.student_images[: self.num_crops].unflatten(0, (-1, self.num_images))


class MaskedDistillation(Distillation):
    """A student whose global crops have holes."""

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
        """Return the teacher's heads and the student's token of hidden patches."""
        return {**super().kept(), MASK_TOKEN: {"mask_token": self.student.mask_token.detach()[None]}}

    def look(self, views: Views, progress: float) -> TeacherStudentTokens:
        """One pass of the teacher over the global crops, and of the student over those with holes and local ones."""
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
        """Which patches of each crop the student does not see, view by view; random by torch's generator.

        Where processes begin with one seed, image i of process r has the masks of image i * processes + r of a joint
        batch.
        """
        joint, own = num_images * num_processes(), range(process(), num_images * num_processes(), num_processes())
        rows = [view * joint + image for view in range(num_views) for image in own]
        masking, seed = self.masked.masking, int(torch.randint(2**31, ()))
        return draw_masks(rows, num_views * joint, grid, share=masking.share, ratios=masking.ratios, seed=seed)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Move the teacher, and the anchor where it is due."""
        super().after_step(progress)
        if self.anchor is None or self.masked.gram is None:
            return
        due = self.masked.gram.moves(progress)
        if int(self.anchor_moves) < due:
            self.anchor.load_state_dict(self.backbone.state_dict())
            self.anchor_moves.fill_(due)

    def train(self, mode: bool = True) -> MaskedDistillation:
        """As of any module, but teacher and anchor never drop paths."""
        super().train(mode)
        anchor = getattr(self, "anchor", None)  # the constructor above this one sets the mode before there is one
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
    """Return the patches of a finer grid on a coarser one: bicubic in 2D as in DINOv3, means in 3D."""
    if tokens.grid == grid:
        return tokens.patches
    maps = tokens.patches.float().transpose(1, 2).unflatten(2, tokens.grid)
    if len(grid) == 2:
        maps = F.interpolate(maps, size=grid, mode="bicubic", antialias=True)
    else:
        maps = F.interpolate(maps, size=grid, mode="area")
    return maps.flatten(2).transpose(1, 2)
