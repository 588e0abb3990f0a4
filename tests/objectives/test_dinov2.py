"""The laws of dinov2 and simdinov2: holes, heads, regularizers, anchor and curriculum."""

from dataclasses import replace

import pytest
import torch

from medvit.backbones import Hidden
from medvit.losses.distillation import cross_view_loss, masked_patch_loss
from medvit.losses.feature_spread import kernel_density_loss
from medvit.losses.gram import gram_loss
from medvit.objectives._masked_distillation import GramConfig, coarsened
from medvit.objectives._student_teacher import tokens_of
from medvit.types import Tokens, Views

TINY_HEAD = {"hidden": 32, "bottleneck": 16, "prototypes": 24}


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("patch_head", ["shared", "separate"])
@pytest.mark.parametrize("name", ["dinov2", "simdinov2"])
def test_every_weight_of_the_student_learns_and_none_of_the_teacher(make, views, name, ndim, patch_head):
    objective = make(name, ndim=ndim, head=TINY_HEAD, patch_head=patch_head)
    with torch.no_grad():  # apart from the teacher, or cosines are at their maximum
        for weight in objective.student.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    objective(views(ndim), 0.5).total.backward()
    assert [n for n, w in objective.student.named_parameters() if w.grad is None or not w.grad.abs().any()] == []
    assert {n.split(".")[0] for n, w in objective.named_parameters() if w.requires_grad} == {"student"}


@pytest.mark.parametrize("num_images", [1, 2])
@pytest.mark.parametrize("name", ["dinov2", "simdinov2"])
@pytest.mark.parametrize("regularizer", ["kde", "koleo", "coding_rate", "off"])
def test_a_tiny_batch_in_16_bits_gives_a_number_and_gradients(make, views, name, num_images, regularizer):
    options = {} if name == "simdinov2" else {"regularizer": regularizer, "centering": "sinkhorn"}
    objective = make(name, head=TINY_HEAD, **options)
    with torch.autocast("cpu", torch.bfloat16):
        losses = objective(views(num_images=num_images), 0.0)
    assert all(term.dtype == torch.float32 for term in losses.terms.values())
    losses.total.backward()
    assert all(torch.isfinite(w.grad).all() for w in objective.student.parameters())


def test_the_terms_are_those_of_dino_ibot_and_the_regularizer(make, views):
    objective, batch = make("dinov2", head=TINY_HEAD, teacher_temperature=0.05), views()
    torch.manual_seed(5)
    look = objective.look(batch, 0.5)
    student, teacher = objective.student.heads["image"], objective.teacher_heads["image"]
    targets = (teacher(look.teacher_images) / 0.05).softmax(-1)
    patch_targets = (teacher(look.teacher_patches) / 0.05).softmax(-1)
    dino = cross_view_loss(student(look.student_images).unflatten(0, (4, 3)), targets.unflatten(0, (2, 3)), 0.1)
    ibot = masked_patch_loss(student(look.student_patches), patch_targets, look.weights, num_crops=6, temperature=0.1)
    kde = 0.05 * sum(kernel_density_loss(look.student_images[3 * v : 3 * v + 3]) for v in range(2))
    torch.manual_seed(5)
    terms = objective(batch, 0.5).terms
    assert list(terms) == ["dino", "ibot", "kde"]
    for name, expected in {"dino": dino, "ibot": ibot, "kde": kde}.items():
        torch.testing.assert_close(terms[name], expected, atol=1e-5, rtol=0)


def test_the_regularizer_is_not_koleo_unless_asked_for(make, views):
    assert "koleo" not in make("dinov2", head=TINY_HEAD)(views(), 0.5).terms
    assert "koleo" in make("dinov2", head=TINY_HEAD, regularizer="koleo")(views(), 0.5).terms


def test_visible_patches_have_no_gradient_from_the_patch_loss(make, views):
    objective = make("dinov2", head=TINY_HEAD)
    torch.manual_seed(5)
    look = objective.look(views(num_local=0), 0.5)
    torch.manual_seed(5)
    mask = objective.draw_masks(2, 3, (4, 4))
    assert look.student_patches.shape[0] == int(mask.sum())
    torch.testing.assert_close(look.weights.sum().item(), float(mask.any(1).sum()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["dinov2", "simdinov2"])
def test_the_student_does_not_see_the_patches_it_is_asked_for(make, views, name):
    objective, batch = make(name, head=TINY_HEAD), views(num_local=0)
    torch.manual_seed(5)
    mask = objective.draw_masks(2, 3, (4, 4)).reshape(2, 3, 1, 4, 4)
    pixels = mask.repeat_interleave(8, -1).repeat_interleave(8, -2)
    changed = Views(torch.where(pixels, torch.tensor(9.0), batch.crops))
    looks = []
    for given in (batch, changed):
        torch.manual_seed(5)
        looks.append(objective.look(given, 0.5))
    torch.testing.assert_close(looks[0].student_images, looks[1].student_images, atol=1e-5, rtol=0)
    torch.testing.assert_close(looks[0].student_patches, looks[1].student_patches, atol=1e-5, rtol=0)
    assert not torch.allclose(looks[0].teacher_patches, looks[1].teacher_patches)


def test_blur_is_as_the_published_code_has_it_and_not_as_dino(make):
    assert make("dinov2", head=TINY_HEAD).views.augment.blur_chances == (0.0, 0.9, 0.5)
    assert make("dino", head=TINY_HEAD).views.augment.blur_chances == (1.0, 0.1, 0.5)


def test_each_head_is_clipped_by_its_own_norm(make):
    objective = make("dinov2", head=TINY_HEAD, patch_head="separate")
    parts = objective.parts()
    trained = [weight for part in parts for weight in part if weight.requires_grad]
    assert len(parts) == 3
    assert {id(w) for w in trained} == {id(w) for w in objective.parameters() if w.requires_grad}
    assert len(trained) == len({id(w) for w in trained})


def test_gram_anchoring_begins_in_its_time_and_costs_nothing_at_the_anchor(make, views):
    objective = make("dinov2", head=TINY_HEAD, gram={"start": 0.5}, masking={"share": 0.01, "ratios": [0, 0]})
    assert "gram" not in objective(views(), 0.4).terms
    assert objective(views(), 0.5).terms["gram"] < 0.5
    with torch.no_grad():
        for weight in objective.student.backbone.parameters():
            weight.add_(torch.randn_like(weight))
    assert objective(views(), 0.5).terms["gram"] > 0.1


def test_the_anchor_becomes_the_teacher_when_it_is_due(make):
    objective = make("dinov2", head=TINY_HEAD, gram={"start": 0.5, "refresh": 0.2, "max_refreshes": 1})
    moved = []
    for step in range(10):
        with torch.no_grad():
            objective.backbone.norm.bias.fill_(step)
        objective.student.backbone.norm.bias.data.fill_(step)
        objective.after_step(step / 10)
        moved.append(objective.anchor.norm.bias[0].item())
    assert moved == [0, 0, 0, 0, 0, 5, 5, 7, 7, 7]
    assert GramConfig(anchor="start").moves(0.9) == 0


def test_large_grids_compare_some_of_their_patches(make, views):
    objective = make("dinov2", head=TINY_HEAD, gram={"start": 0, "max_patches": 5})
    assert torch.isfinite(objective(views(), 0.5).terms["gram"])


@pytest.mark.parametrize("ndim", [2, 3])
def test_an_anchor_may_see_more_than_the_student_and_is_averaged_to_its_patches(make, views, ndim):
    objective = make("dinov2", ndim=ndim, head=TINY_HEAD, gram={"start": 0.0, "upscale": 2})
    assert objective.views.upscale == 2
    batch, seen = views(ndim), []
    fine = torch.nn.functional.interpolate(batch.crops.flatten(0, 1), scale_factor=2).unflatten(
        0, batch.crops.shape[:2]
    )
    objective.anchor.embed = lambda pixels, hidden=None: (
        seen.append(pixels) or type(objective.anchor).embed(objective.anchor, pixels, hidden)
    )
    torch.manual_seed(5)
    term = objective(replace(batch, fine=fine), 0.5).terms["gram"]
    assert seen[0].shape[2:] == (64,) * ndim
    torch.manual_seed(5)
    look = tokens_of(objective.student.backbone, batch.crops.flatten(0, 1), masked(objective, batch))
    wanted = coarsened(tokens_of(objective.anchor, fine.flatten(0, 1)), (4,) * ndim)
    torch.testing.assert_close(term, 2.0 * gram_loss(look.patches, wanted), atol=1e-5, rtol=1e-4)


def masked(objective, batch: Views) -> Hidden:
    grid = tuple(side // 8 for side in batch.crops.shape[3:])
    return Hidden(objective.draw_masks(*batch.crops.shape[:2], grid), objective.student.mask_token)


@pytest.mark.parametrize("grid", [(8, 8), (6, 4, 4)])
def test_coarse_patches_are_means_of_fine_ones(grid):
    ramp = torch.arange(float(grid[0])).reshape(-1, *(1,) * (len(grid) - 1)).expand(grid)
    patches = torch.stack([ramp.flatten(), torch.ones(ramp.numel())], dim=-1)[None]
    half = tuple(side // 2 for side in grid)
    found = coarsened(Tokens(patches[:, :0], patches, grid), half)
    torch.testing.assert_close(found[..., 1], torch.ones(1, len(found[0])))
    rows = found[0, :, 0].unflatten(0, half).flatten(1).mean(1)
    torch.testing.assert_close(rows.mean(), torch.tensor((grid[0] - 1) / 2))
    assert (rows.diff() > 1.5).all()
    assert coarsened(Tokens(patches[:, :0], patches, grid), grid) is patches


@pytest.mark.parametrize("name", ["dinov2", "simdinov2"])
def test_the_curriculum_changes_sizes_and_the_loss_goes_on(make, views, name):
    objective = make(name, head=TINY_HEAD, curriculum={"low_until": 0.5, "noise": [0, 0]})
    before, after = (objective(views(side=64), progress).total.item() for progress in (0.49, 0.5))
    assert abs(before - after) < 0.2 * abs(after)


def gratings(step: int) -> Views:
    """Stripes of a direction and a width for each image, seen in every crop of it with another phase and noise."""
    generator = torch.Generator().manual_seed(step)
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    angle, frequency, *phases = (torch.rand(16, 1, 1, generator=generator) for _ in range(8))
    along = (0.3 + 1.2 * frequency) * (rows * (torch.pi * angle).cos() + columns * (torch.pi * angle).sin())
    crops = torch.stack([(along + 6.28 * phase).sin()[:, None] for phase in phases])
    crops = crops + 0.2 * torch.randn(crops.shape, generator=generator)
    return Views(crops[:2], crops[2:, ..., :16, :16])


def effective_rank(features: torch.Tensor) -> float:
    """The exponential of the entropy of the singular values (Roy and Vetterli, EUSIPCO 2007)."""
    values = torch.linalg.svdvals(features - features.mean(0))
    shares = values / values.sum()
    return float((-(shares * (shares + 1e-12).log()).sum()).exp())


@pytest.mark.parametrize("name", ["dinov2", "simdinov2"])
def test_a_hundred_steps_do_not_collapse(make, name):
    options = {"teacher_temperature": 0.04} if name == "dinov2" else {}
    objective = make(name, head=TINY_HEAD, momentum=0.95, **options)
    optimizer = torch.optim.AdamW([w for w in objective.parameters() if w.requires_grad], lr=1e-3, fused=True)
    for step in range(100):
        torch.manual_seed(step)
        optimizer.zero_grad()
        losses = objective(gratings(step), step / 100)
        losses.total.backward()
        objective.before_step(step / 100)
        optimizer.step()
        objective.after_step(step / 100)
    with torch.no_grad():
        features = torch.cat([objective.backbone.eval()(gratings(1000 + n).crops[0]).prefix[:, 0] for n in range(8)])
    assert effective_rank(features) > 4
    if name == "dinov2":
        assert 0.1 < objective.readings()["teacher_entropy"].item() < 0.95
