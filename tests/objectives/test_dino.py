"""The laws of self-distillation (Caron et al., ICCV 2021): dino."""

import math

import pytest
import torch

from medvit.errors import CheckpointError
from medvit.losses.distillation import cross_view_loss
from medvit.objectives._projection import Projection, ProjectionConfig
from medvit.objectives._schedules import cosine, warmed
from medvit.types import Views


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("centering", ["centering", "sinkhorn"])
def test_the_loss_is_finite_and_every_weight_of_the_student_alone_learns(make, views, head, ndim, centering):
    objective = make("dino", ndim=ndim, head=head, centering=centering)
    objective(views(ndim), 0.5).total.backward()
    silent = [name for name, w in objective.student.named_parameters() if w.grad is None]
    assert silent == []
    assert all(not w.requires_grad for w in objective.backbone.parameters())
    assert all(not w.requires_grad for w in objective.teacher_heads.parameters())


def test_the_loss_is_that_of_student_and_teacher_logits(make, views, head):
    objective, batch = make("dino", head=head), views()
    student = [objective.student.heads["image"](objective.student.backbone(c).prefix[:, 0]) for c in batch.crops]
    student += [objective.student.heads["image"](objective.student.backbone(c).prefix[:, 0]) for c in batch.local]
    teacher = [objective.teacher_heads["image"](objective.backbone(c).prefix[:, 0]) for c in batch.crops]
    targets = (torch.stack(teacher) / 0.04).softmax(-1)
    expected = cross_view_loss(torch.stack(student), targets, 0.1)
    torch.testing.assert_close(objective(batch, 0.5).total, expected, atol=1e-5, rtol=0)


def test_at_the_start_student_and_teacher_are_equal(make, head):
    objective = make("dino", head=head)
    for own, new in objective._pairs():
        assert torch.equal(own, new)


def test_the_teacher_follows_by_the_momentum_of_the_schedule(make, head):
    objective = make("dino", head=head, momentum=0.9, momentum_end=1.0)
    with torch.no_grad():
        objective.student.backbone.norm.weight.fill_(2.0)
    objective.after_step(0.5)
    torch.testing.assert_close(objective.backbone.norm.weight, torch.full((32,), 1.05), atol=1e-6, rtol=0)
    objective.after_step(1.0)
    torch.testing.assert_close(objective.backbone.norm.weight, torch.full((32,), 1.05), atol=1e-6, rtol=0)


def test_the_backbone_to_hand_on_is_the_teachers_and_the_trained_one_the_students(make, head):
    objective = make("dino", head=head)
    assert objective.backbone is not objective.trained
    assert objective.trained is objective.student.backbone


def test_the_teacher_never_drops_paths(make, views, head):
    objective = make("dino", head=head, backbone={"drop_path": 0.5}).train()
    crops = views().crops[0]
    assert torch.equal(objective.backbone(crops).patches, objective.backbone(crops).patches)
    assert not torch.equal(objective.trained(crops).patches, objective.trained(crops).patches)


def test_prototypes_are_frozen_at_first(make, views, head):
    objective = make("dino", head=head, freeze_prototypes=0.1)
    objective(views(), 0.05).total.backward()
    objective.before_step(0.05)
    assert objective.student.heads["image"].prototypes.grad is None
    objective(views(), 0.2).total.backward()
    objective.before_step(0.2)
    assert objective.student.heads["image"].prototypes.grad is not None


def test_crops_of_equal_size_go_through_the_backbone_together(make, views, head, monkeypatch):
    objective, seen = make("dino", head=head), []
    embed = objective.trained.embed
    monkeypatch.setattr(
        objective.trained, "embed", lambda pixels, *rest: seen.append(pixels.shape) or embed(pixels, *rest)
    )
    objective(views(num_images=3, num_local=4), 0.5)
    assert seen == [(6, 1, 32, 32), (12, 1, 16, 16)]


@pytest.mark.parametrize("num_images", [1, 2])
@pytest.mark.parametrize("num_local", [0, 2])
def test_a_tiny_batch_and_16_bits_give_a_number(make, views, head, num_images, num_local):
    objective = make("dino", head=head)
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective(views(num_images=num_images, num_local=num_local), 0.0).total
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


def test_a_backbone_without_a_class_token_is_summed_up_by_its_patches(make, views, head):
    objective = make("dino", head=head, backbone={"class_token": False})
    assert torch.isfinite(objective(views(), 0.5).total)


def train(objective, steps: int, *, center: bool = True, lr: float = 1e-3) -> float:
    """Trains on blobs at random places, and gives the last reading of the teacher's entropy."""
    optimizer = torch.optim.AdamW([w for w in objective.parameters() if w.requires_grad], lr=lr, fused=True)
    generator = torch.Generator().manual_seed(0)
    grid = torch.stack(torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij"))
    for step in range(steps):
        place = 32 * torch.rand(16, 2, 1, 1, generator=generator)
        blob = torch.exp(-((grid - place) ** 2).sum(1, keepdim=True) / 30)
        crops = torch.stack([blob + 0.1 * torch.randn(blob.shape, generator=generator) for _ in range(2)])
        progress = step / steps
        optimizer.zero_grad()
        objective(Views(crops), progress).total.backward()
        objective.before_step(progress)
        optimizer.step()
        objective.after_step(progress)
        if not center:
            objective.center.values.zero_()
    return objective.readings()["teacher_entropy"].item()


def test_centering_and_sharpening_together_keep_the_teacher_from_collapse(make, head):
    options = {"head": head, "momentum": 0.9}
    both = train(make("dino", **options), 60)
    assert 0.1 < both < 0.95
    blunt = train(make("dino", **options, teacher_temperature=1.0, teacher_temperature_start=1.0), 60)
    assert blunt > 0.99


def test_without_centering_one_prototype_takes_all(make, head):
    options = {"head": head, "momentum": 0.9, "freeze_prototypes": 0}
    centered, bare = (train(make("dino", **options), 60, center=center) for center in (True, False))
    assert bare < 0.05
    assert centered > 2 * bare


def test_the_schedules_are_the_published_ones():
    assert cosine(0.996, 1.0, 0.0) == pytest.approx(0.996)
    assert cosine(0.996, 1.0, 0.25) == pytest.approx(1.0 + 0.5 * (0.996 - 1.0) * (1 + math.cos(math.pi / 4)))
    assert cosine(0.996, 1.0, 1.0) == pytest.approx(1.0)
    assert [warmed(0.04, 0.07, 0.3, p) for p in (0.0, 0.15, 0.3, 1.0)] == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert warmed(0.04, 0.07, 0.0, 0.0) == 0.07


@pytest.mark.parametrize("name", ["last_layer.weight_v", "last_layer.parametrizations.weight.original1"])
def test_a_published_head_is_taken_whatever_its_prototypes_are_called(tmp_path, head, name):
    torch.manual_seed(0)
    theirs = Projection(ProjectionConfig(**head), 32, with_prototypes=True)
    state = {key: value for key, value in theirs.state_dict().items() if key != "prototypes"}
    torch.save({**state, name: 3 * theirs.prototypes.detach()}, tmp_path / "head.pth")
    ours = ProjectionConfig(**head, weights=str(tmp_path / "head.pth")).build(32)
    tokens = torch.randn(4, 32)
    torch.testing.assert_close(ours(tokens), theirs(tokens), atol=1e-6, rtol=0)
    with pytest.raises(CheckpointError, match="does not contain a head with these options"):
        ProjectionConfig(**head, weights=str(tmp_path / "head.pth")).build(48)


def test_logits_are_cosines_with_the_prototypes(head):
    made = ProjectionConfig(**head).build(32)
    logits = made(torch.randn(5, 32))
    assert logits.abs().max() <= 1 + 1e-6
    with torch.no_grad():
        made.prototypes.mul_(7)
    assert made(torch.randn(5, 32)).abs().max() <= 1 + 1e-6


@pytest.mark.usefixtures("whole_figures")
def test_pictures_show_what_the_teacher_finds_alike(make, views, head):
    figure = make("dino", head=head).pictures(views())["similarity"]
    assert [axes.get_title() for axes in figure.axes[:2]] == ["image", "cosine with the middle patch"]
