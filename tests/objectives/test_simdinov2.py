"""The loss of SimDINOv2 equals that of the paper, without prototypes."""

import pytest
import torch
from torch.nn import functional as F

from medvit.objectives.simdinov2 import SimDinoV2Config

HEAD = {"hidden": 32, "bottleneck": 16}


def test_its_heads_have_no_prototypes(make, head):
    with_prototypes = [name for name in make("dinov2", head=head).state_dict() if "prototypes" in name]
    assert with_prototypes
    assert [name for name in make("simdinov2", head=head).state_dict() if "prototypes" in name] == []


def test_its_terms_are_the_cosines_and_the_coding_rate_of_the_paper(make, views):
    objective, batch = make("simdinov2", head=HEAD, expansion="student", epsilon=0.2), views()
    torch.manual_seed(5)
    look = objective.look(batch, 0.5)
    student, teacher = objective.student.heads["image"], objective.teacher_heads["image"]
    images = F.normalize(student(look.student_images), dim=-1).unflatten(0, (4, 3))
    targets = F.normalize(teacher(look.teacher_images), dim=-1).unflatten(0, (2, 3))
    pairs = [(target, view) for target in range(2) for view in range(4) if target != view]
    cosines = torch.stack([(targets[target] * images[view]).sum(-1).mean() for target, view in pairs])
    num_images, width = 3, HEAD["bottleneck"]
    gamma = (width + num_images) / (width * num_images)
    rates = [
        gamma / 2 * torch.logdet(torch.eye(width) + width / (num_images * 0.2) * view.T @ view) for view in images[:2]
    ]
    torch.manual_seed(5)
    terms = objective(batch, 0.5).terms
    torch.testing.assert_close(terms["alignment"], -cosines.mean(), atol=1e-5, rtol=0)
    torch.testing.assert_close(terms["spread"], -torch.stack(rates).mean(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("option", "term"), [("alignment_weight", "alignment"), ("patch_weight", "patches")])
def test_a_weight_scales_its_term_alone(make, views, option, term):
    once, twice = (make("simdinov2", head=HEAD, **{option: weight}) for weight in (1.0, 2.0))
    terms = []
    for objective in (once, twice):
        torch.manual_seed(5)
        terms.append(objective(views(), 0.5).terms)
    expected = {name: value * (2 if name == term else 1) for name, value in terms[0].items()}
    assert terms[0][term].abs() > 1e-3
    torch.testing.assert_close(terms[1], expected, atol=1e-6, rtol=1e-6)


def test_it_is_chosen_by_its_name():
    assert SimDinoV2Config.parse({"name": "simdinov2"}) == SimDinoV2Config()
