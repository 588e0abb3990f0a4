"""Self-distillation for continued pretraining: student and teacher start equal, the teacher is fixed, both remain
close.
"""

import pytest
import torch

from medvit.artifacts import Checkpoint
from medvit.errors import ConfigError
from medvit.stage import Run
from medvit.tracking import Tracker
from medvit.types import Views
from pipelines.pretrain import PretrainConfig, assemble, pretrain
from tests.training.guard.test_guard import image_options


@pytest.fixture(scope="module")
def runs(images, tmp_path_factory):
    """Initial weights, and a teacher trained for 20 steps more."""
    folder = tmp_path_factory.mktemp("further")
    start = pretrain(output=folder / "start", **image_options(images, optim={"lr": 1e-3}))
    options = image_options(images, checkpoint=start.folder, peft="full", optim=COSINE, guard="off")
    teacher = pretrain(output=folder / "teacher", **options | {"trainer": steps(20)})
    return options, start, teacher


COSINE = {"lr": 1e-3, "schedule": "cosine", "warmup": 0.1}


def steps(count: int) -> dict:
    return {"epochs": 1, "steps_per_epoch": count, "precision": "32-true"}


def assembled(options, teacher, tmp_path):
    config = PretrainConfig.parse(
        options | {"output": tmp_path / "x", "self_distillation": {"teacher": teacher.folder}}
    )
    return assemble(config, Run("look", tmp_path, Tracker()))


def test_the_student_begins_as_the_start_weights_and_the_teacher_gets_no_gradient(runs, tmp_path):
    options, start, teacher = runs
    parts = assembled(options, teacher, tmp_path)
    for name, weight in parts.module.objective.backbone.state_dict().items():
        assert torch.equal(weight, start.state[name])
    self_distillation = parts.module.self_distillation
    for name, weight in self_distillation.teacher.state_dict().items():
        assert torch.equal(weight, teacher.state[name])
    views = Views(torch.randn(1, 2, 1, 16, 16), studies=("s-1", "s-2"))
    self_distillation.distance(parts.module.objective.backbone, views).backward()
    assert all(weight.grad is None and not weight.requires_grad for weight in self_distillation.teacher.parameters())
    assert parts.module.objective.backbone.blocks[0].attn.qkv.weight.grad.abs().max() > 0
    assert not any("teacher" in name for name in parts.module.state_dict())


def test_the_distance_is_the_mean_square_between_all_tokens(runs, tmp_path):
    options, _, teacher = runs
    parts = assembled(options, teacher, tmp_path)
    backbone, self_distillation = parts.module.objective.backbone, parts.module.self_distillation
    pixels = torch.randn(2, 1, 16, 16)
    here, there = backbone(pixels), self_distillation.teacher(pixels)
    squares = torch.cat([(here.prefix - there.prefix).square(), (here.patches - there.patches).square()], dim=1)
    found = self_distillation.distance(backbone, Views(pixels[None]))
    torch.testing.assert_close(found, squares.mean(), atol=1e-6, rtol=1e-5)
    self_distillation.teacher.load_state_dict(backbone.state_dict())
    assert float(self_distillation.distance(backbone, Views(pixels[None])).detach()) == 0.0


def distance(one: Checkpoint, other: Checkpoint) -> float:
    return sum(float((weight - other.state[name]).square().sum()) for name, weight in one.state.items()) ** 0.5


def test_the_student_stays_nearer_to_the_start_than_without_the_term(runs, tmp_path):
    """Of runs of one length, several times that of the teacher, as distance over all weights."""
    options, start, teacher = runs
    longer = options | {"trainer": steps(60)}
    without = pretrain(output=tmp_path / "without", **longer)
    student = pretrain(
        output=tmp_path / "student", **longer, self_distillation={"teacher": teacher.folder, "weight": 10.0}
    )
    assert 0.0 < distance(student, start) < 0.9 * distance(without, start)


def test_a_teacher_of_another_shape_is_refused(runs, images, tmp_path):
    options, _, teacher = runs
    wide = options | {"checkpoint": None, "backbone": options["backbone"] | {"width": 64}}
    with pytest.raises(ConfigError, match="the teacher has tokens of another shape than the backbone"):
        assembled(wide, teacher, tmp_path)
