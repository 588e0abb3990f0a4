"""Teacher targets and the student's cross-entropy: the DINO loss on images, the iBOT loss on patches.

The losses are from Caron et al., ICCV 2021, and Zhou et al., ICLR 2022, combined as in Oquab et al., TMLR 2024.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from medvit.distributed import exactly, highest, summed
from medvit.losses.cross_entropy import cross_entropy_rows, softmax_rows, sum_of_rows


class Center(nn.Module):
    """Running mean of the teacher's logits (Caron et al., ICCV 2021).

    Subtracting it prevents one prototype from attracting all images.
    """

    values: Tensor

    def __init__(self, num_prototypes: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("values", torch.zeros(num_prototypes))

    @torch.no_grad()
    def targets(self, logits: Float[Tensor, "n k"], temperature: float) -> Float[Tensor, "n k"]:
        """Return the teacher's probabilities, centered and sharpened."""
        return softmax_rows(logits, temperature, self.values)

    @torch.no_grad()
    def follow(self, logits: Float[Tensor, "n k"]) -> None:
        """Update the center with the mean over these logits and those of all other processes."""
        total, count = (
            summed(sum_of_rows(logits)),
            summed(torch.tensor(float(len(logits)), device=logits.device)),
        )
        self.values.lerp_(total / count.clamp(min=1.0), 1.0 - self.momentum)


@torch.no_grad()
def sinkhorn_knopp(logits: Float[Tensor, "n k"], temperature: float, *, iterations: int = 3) -> Float[Tensor, "n k"]:
    """Return probabilities for each row, balanced so that all prototypes are used about equally (Caron et al. 2020).

    Rows of all processes are balanced together.
    """
    scores = logits.float() / temperature
    # Subtracting the largest one changes nothing, as all are divided by their sum, and keeps exp within float32.
    most = scores.amax() if len(scores) else scores.new_tensor(-torch.inf)
    weights = (scores - highest(most)).exp()
    num_rows = summed(torch.tensor(float(len(logits)), device=logits.device))
    weights = weights / summed(weights.sum())
    for _ in range(iterations):
        weights = weights / (summed(weights.sum(dim=0)) * weights.shape[1]).clamp(min=torch.finfo(torch.float32).tiny)
        weights = weights / (weights.sum(dim=1, keepdim=True) * num_rows)
    return weights * num_rows


def cross_view_loss(
    student: Float[Tensor, "v b k"], targets: Float[Tensor, "w b k"], temperature: float
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy over pairs of a target view and a different student view.

    Target view i and student view i are the same view, and are not compared: for 2 global and n local views, 2 + 2n
    pairs count. The result is NaN for a single view. Sums are computed row by row, because one float32 product over
    B x K terms has an error of 6e-3 at 65,536 prototypes.
    """
    counted = different_views(len(targets), len(student), student.device)
    with exactly(student.device):
        # Cross-entropy is linear in the targets: the targets of each student view are summed first.
        rows = [
            cross_entropy_rows(view, _added_up(targets, others), temperature)
            for view, others in zip(student, counted.T.tolist(), strict=True)
            if any(others)
        ]
        total = torch.cat(rows).sum() if rows else student.float().sum() * 0.0
        return total / (student.shape[1] * counted.sum())


@torch.no_grad()
def _added_up(targets: Float[Tensor, "w b k"], chosen: Sequence[bool]) -> Float[Tensor, "b k"]:
    views = [view for view, is_chosen in zip(targets, chosen, strict=True) if is_chosen]
    return views[0] if len(views) == 1 else torch.stack(views).float().sum(dim=0)


def different_views(num_targets: int, num_students: int, device: torch.device) -> Bool[Tensor, "w v"]:
    """Return a mask that is True for pairs of a target view and a different student view."""
    return ~torch.eye(num_targets, num_students, dtype=torch.bool, device=device)


def masked_patch_loss(
    student: Float[Tensor, "m k"],
    targets: Float[Tensor, "m k"],
    weights: Float[Tensor, "m"],
    *,
    num_crops: int,
    temperature: float,
) -> Float[Tensor, ""]:
    """Return the cross-entropy over masked patches (Zhou et al. 2022), divided by the number of crops.

    `weights` contains 1 / (number of masked patches in its crop) for each patch. `num_crops` counts all crops, with or
    without masked patches.
    """
    with exactly(student.device):
        per_patch = cross_entropy_rows(student, targets, temperature)
        return (per_patch * weights).sum() / num_crops


def mask_weights(mask: Bool[Tensor, "b n"]) -> Float[Tensor, "m"]:
    """Return 1 / (number of masked patches in its crop) for each masked patch, in row-major order."""
    counts = mask.sum(dim=1, keepdim=True).clamp(min=1).float()
    return (1.0 / counts).expand(mask.shape)[mask]


def relative_entropy(probabilities: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
    """Return the mean entropy of rows as a fraction of its maximum, log K.

    A value near 0 or 1 means that the teacher is uninformative.
    """
    entropy = -(probabilities * probabilities.clamp(min=1e-12).log()).sum(dim=-1).mean()
    return entropy / torch.tensor(float(probabilities.shape[-1])).log().to(entropy)


def alignment(student: Float[Tensor, "v b d"], targets: Float[Tensor, "w b d"]) -> Float[Tensor, ""]:
    """Return the mean cosine over pairs of a target view and a different student view (SimDINO: Wu et al. 2025)."""
    with exactly(student.device):
        student, targets = F.normalize(student.float(), dim=-1), F.normalize(targets.float(), dim=-1)
        pairs = torch.stack([(targets * view).sum(dim=-1).mean(dim=-1) for view in student], dim=1)
        return pairs[different_views(len(targets), len(student), student.device)].mean()


def masked_patch_alignment(
    student: Float[Tensor, "m d"], targets: Float[Tensor, "m d"], weights: Float[Tensor, "m"], *, num_crops: int
) -> Float[Tensor, ""]:
    """Return the mean cosine over masked patches (SimDINOv2: Wu et al., ICML 2025).

    `weights` and `num_crops` are those of `masked_patch_loss`.
    """
    with exactly(student.device):
        cosine = F.cosine_similarity(student.float(), targets.float(), dim=-1)
        return (cosine * weights).sum() / num_crops
