"""Plain PyTorch versions of published algorithms on timm's transformers, as a first version would be written.

Every crop goes through the network by itself, losses are written out, and the teacher is updated weight by weight. Only
the crops are made by medvit.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STUDENT_TEMPERATURE, TEACHER_TEMPERATURE, MOMENTUM, CENTER_MOMENTUM, KOLEO_WEIGHT = 0.1, 0.07, 0.992, 0.9, 0.1
MASKED_SHARE, MASK_RATIOS = 0.5, (0.1, 0.5)


class PlainHead(nn.Module):
    """DINO's head: three layers, a unit-norm bottleneck, a weight-normalized last layer (Caron et al., 2021)."""

    def __init__(self, width: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.last: Any = nn.utils.parametrizations.weight_norm(nn.Linear(bottleneck, prototypes, bias=False))
        self.last.parametrizations.weight.original0.data.fill_(1.0)
        self.last.parametrizations.weight.original0.requires_grad = False

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits over prototypes."""
        return self.last(F.normalize(self.mlp(tokens), dim=-1))


class PlainDinoV2(nn.Module):
    """DINOv2 (Oquab et al., 2024): DINO and iBOT with one head, centering, KoLeo."""

    center: Tensor
    patch_center: Tensor

    def __init__(self, backbone: Any, prototypes: int) -> None:
        super().__init__()
        width = backbone.embed_dim
        self.student: Any = nn.ModuleDict({"backbone": backbone, "head": PlainHead(width, 2048, 256, prototypes)})
        self.teacher: Any = copy.deepcopy(self.student).requires_grad_(False).eval()
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.register_buffer("center", torch.zeros(prototypes))
        self.register_buffer("patch_center", torch.zeros(prototypes))

    def forward(self, crops: Tensor, local: Tensor) -> Tensor:
        """Return the loss of global crops (2, B, C, H, W) and local ones (8, B, C, h, w)."""
        teacher, student = self.teacher, self.student
        masks = [_block_masks(len(view), _grid(teacher["backbone"], view)) for view in crops]
        with torch.no_grad():
            taught = [teacher["backbone"].forward_features(view) for view in crops]
            image_logits = [teacher["head"](tokens[:, 0]).float() for tokens in taught]
            patch_logits = [teacher["head"](tokens[:, 1:][m]).float() for tokens, m in zip(taught, masks, strict=True)]
            targets = [((x - self.center) / TEACHER_TEMPERATURE).softmax(-1) for x in image_logits]
            patch_targets = [((x - self.patch_center) / TEACHER_TEMPERATURE).softmax(-1) for x in patch_logits]
            self.center.lerp_(torch.cat(image_logits).mean(0), 1 - CENTER_MOMENTUM)
            self.patch_center.lerp_(torch.cat(patch_logits).mean(0), 1 - CENTER_MOMENTUM)
        seen = [_forward_masked(student["backbone"], x, m, self.mask_token) for x, m in zip(crops, masks, strict=True)]
        small = [student["backbone"].forward_features(view) for view in local]
        images = [student["head"](tokens[:, 0]) for tokens in [*seen, *small]]
        pairs = [(t, s) for t in range(len(targets)) for s in range(len(images)) if s != t]
        dino = sum(_cross_entropy(images[s], targets[t]).mean() for t, s in pairs) / len(pairs)
        ibot = torch.zeros(())
        for tokens, mask, wanted in zip(seen, masks, patch_targets, strict=True):
            weights = (1.0 / mask.sum(1, keepdim=True).clamp(min=1)).expand_as(mask)[mask]
            ibot = ibot + (_cross_entropy(student["head"](tokens[:, 1:][mask]), wanted) * weights).sum() / len(mask) / 2
        return dino + ibot + KOLEO_WEIGHT * sum(_koleo(tokens[:, 0].float()) for tokens in seen)

    @torch.no_grad()
    def move_teacher(self) -> None:
        """Update the teacher from the student."""
        for own, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            own.mul_(MOMENTUM).add_(new.detach(), alpha=1 - MOMENTUM)


class PlainMae(nn.Module):
    """Masked autoencoder (He et al., 2022) with its decoder of 8 blocks of width 512."""

    def __init__(self, backbone: Any, mask_ratio: float = 0.75) -> None:
        super().__init__()
        from timm.models.vision_transformer import Block

        self.backbone: Any = backbone
        self.mask_ratio = mask_ratio
        self.patch, num_patches = backbone.patch_embed.patch_size[0], backbone.patch_embed.num_patches
        self.embed = nn.Linear(backbone.embed_dim, 512)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 512))
        self.positions = nn.Parameter(torch.randn(1, num_patches + 1, 512) * 0.02, requires_grad=False)
        self.blocks = nn.Sequential(*(Block(512, 16, qkv_bias=True) for _ in range(8)))
        self.norm, self.predict = nn.LayerNorm(512), nn.Linear(512, self.patch**2 * 3)

    def forward(self, crops: Tensor, local: Tensor | None) -> Tensor:
        """Return the loss of one crop of each image, (1, B, C, H, W)."""
        pixels = crops[0]
        backbone = self.backbone
        patches = backbone.patch_embed(pixels) + backbone.pos_embed[:, 1:]
        order = torch.rand(patches.shape[:2]).argsort(dim=1)
        restore, num_keep = order.argsort(dim=1), int(patches.shape[1] * (1 - self.mask_ratio))
        seen = patches.gather(1, order[:, :num_keep, None].expand(-1, -1, patches.shape[-1]))
        token = (backbone.cls_token + backbone.pos_embed[:, :1]).expand(len(seen), -1, -1)
        tokens = self.embed(backbone.norm(backbone.blocks(torch.cat([token, seen], dim=1))))
        hidden = self.mask_token.expand(len(seen), patches.shape[1] - num_keep, -1)
        rest = torch.cat([tokens[:, 1:], hidden], dim=1)
        rest = rest.gather(1, restore[..., None].expand(-1, -1, rest.shape[-1]))
        decoded = self.blocks(torch.cat([tokens[:, :1], rest], dim=1) + self.positions)
        predicted = self.predict(self.norm(decoded))[:, 1:]
        target = pixels.unfold(2, self.patch, self.patch).unfold(3, self.patch, self.patch)
        target = target.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        mask = torch.ones(patches.shape[:2]).scatter(1, order[:, :num_keep], 0.0)
        return (((predicted - target) ** 2).mean(-1) * mask).sum() / mask.sum()

    def move_teacher(self) -> None:
        """Do nothing: MAE has no teacher."""


def _forward_masked(backbone: Any, pixels: Tensor, mask: Tensor, token: Tensor) -> Tensor:
    tokens = backbone.patch_embed(pixels)
    shape = tokens.shape
    patches = tokens.flatten(1, -2)
    patches = torch.where(mask[..., None], token.to(patches.dtype), patches)
    return backbone.norm(backbone.blocks(backbone.norm_pre(backbone._pos_embed(patches.reshape(shape)))))


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return -(targets * (logits.float() / STUDENT_TEMPERATURE).log_softmax(-1)).sum(-1)


def _koleo(features: Tensor) -> Tensor:
    unit = F.normalize(features, dim=-1)
    cosine = unit @ unit.T
    cosine = cosine - 2 * torch.eye(len(unit))
    distance = F.pairwise_distance(unit, unit[cosine.argmax(dim=1)], eps=1e-8)
    return -(distance + 1e-8).log().mean()


def _grid(backbone: Any, pixels: Tensor) -> tuple[int, int]:
    patch = backbone.patch_embed.patch_size[0]
    return pixels.shape[-2] // patch, pixels.shape[-1] // patch


def _block_masks(num_crops: int, grid: tuple[int, int]) -> Tensor:
    """Return masks for half of the crops, each hiding a tenth to a half of the patches, in rectangles."""
    masks = torch.zeros(num_crops, *grid, dtype=torch.bool)
    for number in torch.randperm(num_crops)[: max(1, int(num_crops * MASKED_SHARE))].tolist():
        wanted = math.prod(grid) * float(torch.empty(()).uniform_(*MASK_RATIOS))
        while masks[number].sum() < wanted:
            height, width = (int(torch.randint(1, max(2, side // 2), ())) for side in grid)
            top, left = (int(torch.randint(0, n - m + 1, ())) for n, m in zip(grid, (height, width), strict=True))
            masks[number, top : top + height, left : left + width] = True
    return masks.flatten(1)
