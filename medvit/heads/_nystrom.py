"""Nystrom attention (Xiong et al., AAAI 2021): softmax attention approximated through a few landmarks.

The landmarks q and k are means of consecutive queries Q and consecutive keys K. Attention is approximated as

    softmax(Q k' / sqrt(d)) pinv(softmax(q k' / sqrt(d))) softmax(q K' / sqrt(d)) V

and the memory grows linearly with the number of tokens, not quadratically. As published, tokens are padded in front
with zeros to a multiple of the number of landmarks, and the zeros take part in attention. Since all these zeros are
equal, this implementation replaces them by a single zero, weighted by their number. The result is the same, but short
bags are much cheaper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from medvit.distributed import exactly

PINV_ITERATIONS = 6
"""Steps of the iterative pseudo-inverse, as published."""
RESIDUAL_KERNEL = 33
"""Kernel length of the convolution over values, as published."""


def iterative_pinv(
    matrix: Float[Tensor, "b h m m"], counts: Float[Tensor, "m"], iterations: int
) -> Float[Tensor, "b h m m"]:
    """Return the pseudo-inverse of row-stochastic matrices by iteration (Razavi et al. 2014; Xiong et al., eq. 11).

    `matrix` is the short form of a larger matrix in which landmark m occurs `counts[m]` times. The short form has one
    row and one column per distinct landmark, and the columns of equal landmarks are summed. The result is the
    pseudo-inverse of the larger matrix, also in the short form. The initial value of the iteration is scaled by the
    largest column sum over the heads of a bag.
    """
    transposed = matrix.mT * counts / counts[:, None]
    column_sums = (matrix * counts[:, None]).sum(dim=-2) / counts
    inverse = transposed / column_sums.amax(dim=(-2, -1), keepdim=True)[..., None]
    identity = torch.eye(matrix.shape[-1], device=matrix.device, dtype=matrix.dtype)
    for _ in range(iterations):
        product = matrix @ inverse
        inverse = 0.25 * inverse @ (13 * identity - product @ (15 * identity - product @ (7 * identity - product)))
    return inverse


def segment_means(tokens: Float[Tensor, "b h n d"], landmarks: int) -> tuple[Float[Tensor, "b h m d"], int]:
    """Return the means of the segments that contain tokens, and the number of segments without tokens.

    The tokens are padded in front with zeros and split into `landmarks` segments of equal size. Some segments may
    contain only zeros. If a segment contains zeros and tokens, the zeros count in its mean.
    """
    size = -(-tokens.shape[-2] // landmarks)
    filled = -tokens.shape[-2] % landmarks
    started = F.pad(tokens.float(), (0, 0, filled % size, 0))
    return started.unflatten(-2, (-1, size)).mean(dim=-2), filled // size


@dataclass(frozen=True)
class Landmarks:
    """Landmark queries and keys (B, H, M, d) as float32.

    All-zero landmarks are merged into one, which is the last. `counts` (M) is the number of original landmarks that
    each of the M landmarks stands for; `inverse` (B, H, M, M) is the pseudo-inverse of the attention between landmarks.
    """

    queries: Float[Tensor, "b h m d"]
    keys: Float[Tensor, "b h m d"]
    counts: Float[Tensor, "m"]
    inverse: Float[Tensor, "b h m m"]

    @classmethod
    def of(cls, queries: Float[Tensor, "b h n d"], keys: Float[Tensor, "b h n d"], number: int) -> Landmarks:
        """Return the landmarks of queries and keys: means over `number` segments of consecutive tokens."""
        with exactly(queries.device):
            (queries, num_zeros), (keys, _) = segment_means(queries, number), segment_means(keys, number)
            counts = queries.new_ones(queries.shape[-2])
            if num_zeros:
                queries, keys = F.pad(queries, (0, 0, 0, 1)), F.pad(keys, (0, 0, 0, 1))
                counts = F.pad(counts, (0, 1), value=num_zeros)
            kernel = _attention(queries, keys, counts.log())
            return cls(queries, keys, counts, iterative_pinv(kernel, counts, PINV_ITERATIONS))


class NystromAttention(nn.Module):
    """Multi-head self-attention through landmarks, plus a depthwise convolution of the values."""

    def __init__(self, width: int, heads: int, *, landmarks: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.landmarks = heads, landmarks
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))
        kernel, padding = (RESIDUAL_KERNEL, 1), (RESIDUAL_KERNEL // 2, 0)
        self.residual = nn.Conv2d(heads, heads, kernel, padding=padding, groups=heads, bias=False)

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Return the attended values of each token."""
        queries, keys, values = self._parts(tokens)
        landmarks = Landmarks.of(queries, keys, self.landmarks)
        bias = self._with_zeros(keys)
        if bias is None:
            found = F.scaled_dot_product_attention(landmarks.queries.to(keys), keys, values)
        else:
            padded = F.pad(keys, (0, 0, 0, 1)), F.pad(values, (0, 0, 0, 1))
            found = F.scaled_dot_product_attention(landmarks.queries.to(keys), *padded, bias[None])
        with exactly(tokens.device):
            found = (landmarks.inverse @ found.float()).to(values)
        log_counts = landmarks.counts.log().to(queries)[None]
        attended = F.scaled_dot_product_attention(queries, landmarks.keys.to(keys), found, log_counts)
        attended = attended + self.residual(values)
        merged: Tensor = self.out(rearrange(attended, "b h n d -> b n (h d)"))
        return merged

    @torch.no_grad()
    def attention_of_first(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b h n"]:
        """Return the attention of the first token to each token, which is approximate and may be negative."""
        queries, keys, _ = self._parts(tokens)
        landmarks, bias = Landmarks.of(queries, keys, self.landmarks), self._with_zeros(keys)
        with exactly(tokens.device):
            first = _attention(queries[:, :, :1].float(), landmarks.keys, landmarks.counts.log()) @ landmarks.inverse
            maps = []
            for head in range(self.heads):  # a large bag times all landmarks of all heads would not fit
                padded = keys[:, head].float() if bias is None else F.pad(keys[:, head].float(), (0, 0, 0, 1))
                looked = _attention(landmarks.queries[:, head], padded, 0.0 if bias is None else bias.float())
                maps.append((first[:, head] @ looked)[:, 0, : tokens.shape[1]])
            return torch.stack(maps, dim=1)

    def _parts(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys, values = rearrange(self.qkv(tokens), "b n (p h d) -> p b h n d", p=3, h=self.heads)
        return queries, keys, values

    def _with_zeros(self, keys: Tensor) -> Tensor | None:
        """Return terms to add to the attention logits of the keys and of one zero key; None without padding.

        The zero key represents all padding zeros in front of the tokens. Its term is the logarithm of their number, so
        that it gets the attention of all of them.
        """
        num_zeros = -keys.shape[-2] % self.landmarks
        if not num_zeros:
            return None
        return F.pad(keys.new_zeros(keys.shape[-2]), (0, 1), value=math.log(num_zeros))


def _attention(queries: Tensor, keys: Tensor, added: Tensor | float) -> Tensor:
    return (queries @ keys.mT / math.sqrt(queries.shape[-1]) + added).softmax(dim=-1)
