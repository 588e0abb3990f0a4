"""TransMIL matches the paper and its equations (Shao et al., NeurIPS 2021; Xiong et al., AAAI 2021).

The references are written from the equations: zeros are laid out one by one, attention is a matrix of all pairs.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from medvit.heads import _nystrom
from medvit.heads._nystrom import NystromAttention, iterative_pinv, segment_means
from medvit.heads.transmil import PyramidPositions, TransmilConfig, TransmilHead

WIDTH, HEADS, LANDMARKS, CLASSES = 16, 2, 8, 3
CLOSE = {"atol": 1e-5, "rtol": 1e-4}
"""Of numbers of about 1: the same sums in another order, in float32."""


def attention(landmarks: int = LANDMARKS) -> NystromAttention:
    torch.manual_seed(0)
    return NystromAttention(WIDTH, HEADS, landmarks=landmarks, dropout=0.0).requires_grad_(False)


def tokens(number: int, *, bags: int = 1) -> Tensor:
    return torch.randn(bags, number, WIDTH, generator=torch.Generator().manual_seed(number))


def reference_pinv(matrices: Tensor) -> Tensor:
    """Of the heads (H, M, M) of one bag."""
    identity = torch.eye(matrices.shape[-1])
    rows, columns = matrices.abs().sum(-1).max(), matrices.abs().sum(-2).max()
    inverse = matrices.transpose(1, 2) / (rows * columns)
    for _ in range(6):
        product = matrices @ inverse
        inverse = inverse @ (13 * identity - product @ (15 * identity - product @ (7 * identity - product))) / 4
    return inverse


def reference_attention(module: NystromAttention, found: Tensor) -> tuple[Tensor, Tensor]:
    """Output for one bag of tokens (N, D), and its attention matrix (H, N, N)."""
    number = len(found)
    filled = torch.cat([torch.zeros(-number % module.landmarks, WIDTH), found])
    queries, keys, values = (
        part.reshape(len(filled), HEADS, -1).transpose(0, 1) for part in (filled @ module.qkv.weight.T).chunk(3, dim=1)
    )
    size, scale = len(filled) // module.landmarks, (WIDTH // HEADS) ** -0.5
    short_queries, short_keys = (part.reshape(HEADS, -1, size, WIDTH // HEADS).mean(2) for part in (queries, keys))
    outer = (queries @ short_keys.transpose(1, 2) * scale).softmax(-1)
    middle = (short_queries @ short_keys.transpose(1, 2) * scale).softmax(-1)
    inner = (short_queries @ keys.transpose(1, 2) * scale).softmax(-1)
    shares = outer @ reference_pinv(middle) @ inner
    around = F.pad(values, (0, 0, 16, 16)).unfold(1, 33, 1)  # (H, N, d, 33)
    attended = shares @ values + (around * module.residual.weight[:, 0, :, 0][:, None, None]).sum(-1)
    merged = attended.transpose(0, 1).reshape(len(filled), WIDTH) @ module.out[0].weight.T + module.out[0].bias
    return merged[-number:], shares[:, -number:, -number:]


def reference_positions(module: PyramidPositions, square: Tensor) -> Tensor:
    """Each token (H, W, D) plus its weighted neighborhoods of 7, 5 and 3."""
    added = square.clone()
    for convolution in module.convolutions:
        side = convolution.weight.shape[-1]
        padded = F.pad(square, (0, 0, side // 2, side // 2, side // 2, side // 2))
        for row in range(square.shape[0]):
            for column in range(square.shape[1]):
                near = padded[row : row + side, column : column + side]
                added[row, column] += torch.einsum("hwd,dhw->d", near, convolution.weight[:, 0]) + convolution.bias
    return added


def reference_head(head: TransmilHead, bag: Tensor) -> Tensor:
    """Logits (L) of one bag (N, D)."""
    tiles = F.relu(head.project[0](bag))
    side = math.ceil(math.sqrt(len(tiles)))
    square = torch.cat([tiles, tiles[: side * side - len(tiles)]])
    found = torch.cat([head.class_token[0], square])
    found = found + reference_attention(head.first, head.norms[0](found))[0]
    placed = reference_positions(head.positions, found[1:].reshape(side, side, -1))
    found = torch.cat([found[:1], placed.reshape(side * side, -1)])
    found = found + reference_attention(head.second, head.norms[1](found))[0]
    return head.linear(head.norms[2](found)[0])


def test_the_defaults_are_the_published_sizes():
    head = TransmilConfig().build_for_bags(1024, 2)
    assert (head.class_token.shape[-1], head.first.heads, head.first.landmarks) == (512, 8, 256)
    assert head.first.residual.weight.shape == (8, 1, 33, 1)
    assert [tuple(conv.weight.shape) for conv in head.positions.convolutions] == [(512, 1, n, n) for n in (7, 5, 3)]
    # fc, two layers of (norm, qkv without bias, out, convolution), PPEG, class token, norm, fc
    layer = 1024 + 3 * 512 * 512 + 512 * 513 + 8 * 33
    assert sum(w.numel() for w in head.parameters()) == 512 * 1025 + 2 * layer + 512 * (83 + 3) + 512 + 1024 + 1026


@pytest.mark.parametrize("number", [1, 3, 8, 9, 12, 16, 17, 31, 100])
def test_attention_is_the_published_one_whatever_zeros_fill_it_up(number):
    module, found = attention(), tokens(number)
    expected, shares = reference_attention(module, found[0])
    torch.testing.assert_close(module(found)[0], expected, **CLOSE)
    torch.testing.assert_close(module.attention_of_first(found)[0], shares[:, 0], **CLOSE)


def test_with_a_landmark_for_each_token_it_is_softmax_attention(monkeypatch):
    """To the precision of the pseudo-inverse: 6 iterations leave 0.006 of outputs up to 0.5."""
    module, found = attention(), tokens(LANDMARKS)
    queries, keys, values = module._parts(found)
    softmax = F.scaled_dot_product_attention(queries, keys, values) + module.residual(values)
    expected = module.out(softmax.transpose(1, 2).flatten(2))
    torch.testing.assert_close(module(found), expected, atol=1e-2, rtol=0)
    monkeypatch.setattr(_nystrom, "PINV_ITERATIONS", 30)
    torch.testing.assert_close(module(found), expected, atol=1e-4, rtol=0)


def test_the_iteration_arrives_at_the_pseudo_inverse():
    matrix = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)).mul(2).softmax(-1)
    once = torch.ones(6)
    torch.testing.assert_close(iterative_pinv(matrix, once, 30), torch.linalg.pinv(matrix), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(iterative_pinv(matrix[:1], once, 6)[0], reference_pinv(matrix[0]), **CLOSE)


def test_one_landmark_that_counts_for_several_gives_what_several_equal_ones_give():
    logits = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    counts, one_by_one = torch.tensor([1.0, 1.0, 1.0, 5.0]), torch.tensor([0, 1, 2, 3, 3, 3, 3, 3])
    several = logits[..., one_by_one, :][..., one_by_one].softmax(-1)
    values = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    short = (logits + counts.log()).softmax(-1)
    expected = (several @ iterative_pinv(several, torch.ones(8), 6) @ values[one_by_one])[..., :4, :]
    torch.testing.assert_close(short @ iterative_pinv(short, counts, 6) @ values, expected, **CLOSE)


def test_landmarks_are_means_of_segments_that_count_the_zeros_before_the_first_token():
    found = torch.arange(1.0, 6.0).reshape(1, 1, 5, 1)
    means, num_zeros = segment_means(found, 3)  # 0 1 | 2 3 | 4 5
    assert (means.flatten().tolist(), num_zeros) == ([0.5, 2.5, 4.5], 0)
    means, num_zeros = segment_means(found, 4)  # 0 0 | 0 1 | 2 3 | 4 5
    assert (means.flatten().tolist(), num_zeros) == ([0.5, 2.5, 4.5], 1)
    means, num_zeros = segment_means(found, 8)
    assert (means.flatten().tolist(), num_zeros) == ([1, 2, 3, 4, 5], 3)


@pytest.mark.parametrize("number", [1, 2, 5, 9, 10, 40])
def test_the_head_is_the_published_one_for_bags_of_any_size(number):
    torch.manual_seed(0)
    config = TransmilConfig(width=WIDTH, heads=HEADS, landmarks=LANDMARKS)
    head = config.build_for_bags(6, CLASSES).eval().requires_grad_(False)
    bag = torch.randn(number, 6, generator=torch.Generator().manual_seed(number))
    reading = head.read(bag[None])
    torch.testing.assert_close(reading.logits[0], reference_head(head, bag), **CLOSE)
    torch.testing.assert_close(reading.attention.sum(-1), torch.ones(1, HEADS))


def test_bags_of_a_batch_do_not_touch_each_other():
    found = tokens(12, bags=3)
    found[1] *= 20
    torch.testing.assert_close(attention()(found)[:1], attention()(found[:1]), **CLOSE)


def test_every_weight_learns():
    head = TransmilConfig(width=WIDTH, heads=HEADS, landmarks=LANDMARKS).build_for_bags(6, CLASSES)
    head.read(torch.randn(2, 20, 6)).logits.square().sum().backward()
    assert [name for name, weight in head.named_parameters() if not weight.grad.abs().max()] == []
