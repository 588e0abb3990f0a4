"""Published losses, written again as loops in float64: DINO, Sinkhorn-Knopp, iBOT, SimDINO's alignment."""

import math

import pytest
import torch

from medvit.losses.distillation import (
    Center,
    alignment,
    cross_view_loss,
    mask_weights,
    masked_patch_alignment,
    masked_patch_loss,
    relative_entropy,
    sinkhorn_knopp,
)

EXACT = {"atol": 1e-5, "rtol": 0}


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def naive_cross_entropy(target: torch.Tensor, student: torch.Tensor, temperature: float) -> float:
    scores = [value / temperature for value in student.double().tolist()]
    log_sum = math.log(sum(math.exp(score - max(scores)) for score in scores)) + max(scores)
    return -sum(p * (score - log_sum) for p, score in zip(target.double().tolist(), scores, strict=True))


@pytest.mark.parametrize("num_local", [0, 2])
def test_dino_is_the_mean_cross_entropy_over_pairs_of_different_views(num_local):
    student = logits(2 + num_local, 3, 7)
    targets = (logits(2, 3, 7, seed=1) / 0.04).softmax(-1)
    terms = [
        sum(naive_cross_entropy(targets[i, b], student[j, b], 0.1) for b in range(3)) / 3
        for i in range(2)
        for j in range(2 + num_local)
        if i != j
    ]
    assert len(terms) == 2 + 2 * num_local
    loss = cross_view_loss(student, targets, 0.1)
    torch.testing.assert_close(loss.item(), sum(terms) / len(terms), **EXACT)


def test_the_assembly_of_dinov2_gives_the_same_value():
    """Local terms over 2 + 2n; global terms as one pass over swapped teachers, times 2 over 2 + 2n (Oquab et al.)."""
    student, targets = logits(4, 5, 9), logits(2, 5, 9, seed=1).softmax(-1)
    log_p = (student.double() / 0.1).log_softmax(-1)
    local = sum(-(targets[t] * log_p[s]).sum(-1).mean() for t in range(2) for s in (2, 3)) / 6
    swapped = targets.flip(0).flatten(0, 1)
    whole = -(swapped * log_p[:2].flatten(0, 1)).sum(-1).mean() * 2 / 6
    torch.testing.assert_close(cross_view_loss(student, targets, 0.1).double(), local + whole, **EXACT)


@pytest.mark.parametrize("num_images", [2, 16])
def test_the_loss_over_65536_prototypes_is_that_of_float64(num_images):
    """To 1e-5 in absolute value; the sum of B x K terms in one float32 product is off by 6e-3."""
    student, targets = logits(4, num_images, 65536), (logits(2, num_images, 65536, seed=1) / 0.07).softmax(-1)
    log_p = (student.double() / 0.1).log_softmax(-1)
    pairs = [-(targets[w].double() * log_p[v]).sum(-1).mean() for w in range(2) for v in range(4) if w != v]
    torch.testing.assert_close(cross_view_loss(student, targets, 0.1).double(), sum(pairs) / 6, **EXACT)


def test_the_gradient_is_that_of_float64():
    student, targets = logits(4, 3, 50).requires_grad_(), logits(2, 3, 50, seed=1).softmax(-1)
    exact = student.detach().double().requires_grad_()
    log_p = (exact / 0.1).log_softmax(-1)
    (sum(-(targets[w] * log_p[v]).sum(-1).mean() for w in range(2) for v in range(4) if w != v) / 6).backward()
    cross_view_loss(student, targets, 0.1).backward()
    torch.testing.assert_close(student.grad.double(), exact.grad, **EXACT)


def test_one_view_alone_has_no_loss():
    assert torch.isnan(cross_view_loss(logits(1, 3, 7), logits(1, 3, 7, seed=1).softmax(-1), 0.1))


def test_a_view_is_not_compared_with_itself():
    student, targets = logits(2, 3, 7), logits(2, 3, 7, seed=1).softmax(-1)
    own = student.clone().requires_grad_()
    only_first = torch.stack([targets[0], torch.zeros_like(targets[1])])
    cross_view_loss(own, only_first, 0.1).backward()
    assert own.grad[0].abs().max() == 0
    assert own.grad[1].abs().max() > 0


def test_the_center_moves_by_its_momentum_towards_the_mean():
    center, rows = Center(7, 0.9), logits(6, 7)
    torch.testing.assert_close(center.targets(rows, 0.04), (rows / 0.04).softmax(-1), **EXACT)
    center.follow(rows)
    torch.testing.assert_close(center.values, 0.1 * rows.mean(0), **EXACT)
    center.follow(rows)
    torch.testing.assert_close(center.values, (0.9 * 0.1 + 0.1) * rows.mean(0), **EXACT)
    torch.testing.assert_close(center.targets(rows, 0.04), ((rows - center.values) / 0.04).softmax(-1), **EXACT)


def test_sinkhorn_knopp_is_the_published_iteration():
    rows = logits(6, 5).clamp(-1, 1)
    weights = (rows.double() / 0.07).exp().T
    weights /= weights.sum()
    for _ in range(3):
        for k in range(5):
            weights[k] /= weights[k].sum() * 5
        for b in range(6):
            weights[:, b] /= weights[:, b].sum() * 6
    torch.testing.assert_close(sinkhorn_knopp(rows, 0.07).double(), weights.T * 6, **EXACT)


def test_sinkhorn_knopp_balances_the_prototypes_and_keeps_rows_probabilities():
    rows = logits(64, 4) * 0.3 + torch.tensor([0.6, 0.0, 0.0, 0.0])
    targets = sinkhorn_knopp(rows, 0.07, iterations=50)
    torch.testing.assert_close(targets.sum(1), torch.ones(64), **EXACT)
    torch.testing.assert_close(targets.sum(0), torch.full((4,), 16.0), atol=1e-2, rtol=0)


@pytest.mark.parametrize("num_rows", [1, 2])
def test_targets_of_a_tiny_batch_are_finite(num_rows):
    rows = torch.tensor([[1.0, -1.0, 0.0]] * num_rows)
    assert torch.isfinite(sinkhorn_knopp(rows, 0.01)).all()
    assert torch.isfinite(Center(3, 0.9).targets(rows, 0.01)).all()


def test_the_patch_loss_is_the_mean_over_masked_patches_of_each_crop_over_all_crops():
    mask = torch.tensor([[True, True, False, False], [False] * 4, [False, True, True, True]])
    student, targets = logits(3, 4, 6), logits(3, 4, 6, seed=1).softmax(-1)
    total = 0.0
    for crop in (0, 2):
        hidden = [n for n in range(4) if mask[crop, n]]
        total += sum(naive_cross_entropy(targets[crop, n], student[crop, n], 0.1) for n in hidden) / len(hidden)
    weights = mask_weights(mask)
    loss = masked_patch_loss(student[mask], targets[mask], weights, num_crops=3, temperature=0.1)
    torch.testing.assert_close(loss.item(), total / 3, **EXACT)
    torch.testing.assert_close(weights.sum().item(), 2.0, **EXACT)


def test_the_weights_of_masked_patches_add_up_to_the_number_of_masked_crops():
    mask = torch.zeros(32, 49, dtype=torch.bool)
    for crop in range(16):
        mask[crop, : crop + 4] = True
    torch.testing.assert_close(mask_weights(mask).sum().item(), 16.0, **EXACT)


def test_alignment_is_the_mean_cosine_of_pairs_of_different_views():
    student, targets = logits(4, 3, 8), logits(2, 3, 8, seed=1)
    cosines = [
        (student[j, b].double() @ targets[i, b].double() / (student[j, b].norm() * targets[i, b].norm())).item()
        for i in range(2)
        for j in range(4)
        for b in range(3)
        if i != j
    ]
    torch.testing.assert_close(alignment(student, targets).item(), sum(cosines) / len(cosines), **EXACT)


def test_alignment_of_many_features_is_that_of_float64():
    student, targets = logits(4, 512, 768), logits(2, 512, 768, seed=1) + 0.3
    wide, wanted = student.double(), targets.double()
    cosines = [torch.cosine_similarity(wanted[i], wide[j], dim=-1).mean() for i in range(2) for j in range(4) if i != j]
    torch.testing.assert_close(alignment(student, targets).double(), sum(cosines) / len(cosines), atol=1e-7, rtol=0)


def test_patches_that_are_turned_round_are_aligned_at_minus_one():
    patches, mask = logits(2, 4, 8), torch.tensor([[True, False, True, False], [False, True, False, False]])
    found = masked_patch_alignment(patches[mask], -patches[mask], mask_weights(mask), num_crops=2)
    torch.testing.assert_close(found.item(), -1.0, **EXACT)


def test_relative_entropy_is_one_for_even_and_zero_for_certain_rows():
    assert relative_entropy(torch.full((3, 8), 1 / 8)).item() == pytest.approx(1.0, abs=1e-6)
    assert relative_entropy(torch.eye(8)).item() == pytest.approx(0.0, abs=1e-6)
