"""Partial labels: the loss and the overlap of label maps in which only some classes are annotated.

A pixel that such a label map calls background may be of any class that is not annotated. The probability of its
background is therefore the sum of the probabilities of the background and of these classes (marginal loss, Shi et al.,
Medical Image Analysis 2021).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def marginal(logits: Float[Tensor, "b l *s"], annotated: Bool[Tensor, "b l"]) -> Float[Tensor, "b l *s"]:
    """Return logits in which the classes that are not annotated are part of the background, the first class.

    After softmax, the first class has the total probability of the background and of the classes that are not
    annotated; the latter have probability 0 (logit -inf). A loss of the result therefore does not affect how this total
    is divided among them.
    """
    logits = logits.float()
    is_other = ~annotated.view(*annotated.shape, *(1,) * (logits.ndim - 2))
    background = logits[:, :1]
    others = logits[:, 1:].masked_fill(~is_other[:, 1:], -torch.inf)
    merged = torch.cat([background, others], dim=1).logsumexp(dim=1, keepdim=True)
    return torch.cat([merged, logits[:, 1:].masked_fill(is_other[:, 1:], -torch.inf)], dim=1)


def as_annotated(found: Int[Tensor, "b *s"], annotated: Bool[Tensor, "b l"]) -> Int[Tensor, "b *s"]:
    """Return predicted classes with background in place of the classes that are not annotated in an image."""
    is_annotated = annotated.gather(1, found.flatten(1).long()).view_as(found)
    return found * is_annotated
