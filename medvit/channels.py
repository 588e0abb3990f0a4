"""Named channels, such as the sequences of an MR study, of which an image may lack some.

In tensors, a channel that an image lacks is NaN at every pixel. NaN cannot pass for a measurement: code that does not
handle missing channels yields a non-finite result, which is reported, instead of a plausible one.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

FILL = 0.0
"""Value of missing channels in networks whose first layer takes all channels together. A channel that is normalized by
its own mean and standard deviation has the mean 0.
"""


def present_channels(pixels: Float[Tensor, "b c *s"]) -> Bool[Tensor, "b c"]:
    """Return which channels are present: those with a pixel that is not NaN."""
    return ~pixels.flatten(2).isnan().all(dim=2)


def mark_missing(pixels: Float[Tensor, "b c *s"], present: Bool[Tensor, "b c"]) -> Float[Tensor, "b c *s"]:
    """Return pixels in which all channels that are not `present` are marked as missing, whatever their values."""
    return pixels.masked_fill(~_per_pixel(present, pixels), torch.nan)


def fill_missing(pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *s"]:
    """Return pixels in which missing channels have the value `FILL`."""
    return pixels.masked_fill(~_per_pixel(present_channels(pixels), pixels), FILL)


def draw_channels(present: Bool[Tensor, "b c"]) -> Bool[Tensor, "b c"]:
    """Draw the channels that each image of a batch keeps, among its present ones (Hierarchical Channel Sampling).

    A number is drawn uniformly from 1 to C, then this many channels without replacement, once for the whole batch (Bao
    et al., ICLR 2024). An image that has none of the drawn channels keeps one of its present channels, chosen at
    random. Random numbers come from torch's global generator.
    """
    num_channels = present.shape[1]
    rank = torch.rand(num_channels, device=present.device).argsort().argsort()
    kept = present & (rank < torch.randint(1, num_channels + 1, (), device=present.device))
    order = torch.rand(present.shape, device=present.device).masked_fill(~present, -1.0)
    own = present & (order == order.amax(dim=1, keepdim=True))
    return kept | (own & ~kept.any(dim=1, keepdim=True))


def _per_pixel(present: Bool[Tensor, "b c"], pixels: Float[Tensor, "b c *s"]) -> Tensor:
    return present.reshape(*present.shape, *(1,) * (pixels.ndim - 2))
