"""Gram anchoring: patch similarities are kept close to those of an earlier teacher (Simeoni et al., 2025, DINOv3)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from medvit.distributed import exactly


def gram_loss(
    student: Float[Tensor, "b n d"], anchor: Float[Tensor, "b n e"], *, clip_negative: bool = True
) -> Float[Tensor, ""]:
    """Return the mean squared difference between the patch cosines of the student and those of the anchor.

    The patch cosines are the cosine similarities between all patches of an image. Rotating or scaling all features
    therefore has no effect, and the widths of student and anchor may differ. `clip_negative` sets negative cosines to
    zero.
    """
    with exactly(student.device):
        own, wanted = gram(student), gram(anchor)
        if clip_negative:
            own, wanted = own.clamp(min=0.0), wanted.clamp(min=0.0)
        return F.mse_loss(own, wanted)


def gram(patches: Float[Tensor, "b n d"]) -> Float[Tensor, "b n n"]:
    """Return the cosine of every pair of patches of an image."""
    unit = F.normalize(patches.float(), dim=-1)
    return unit @ unit.transpose(-1, -2)
