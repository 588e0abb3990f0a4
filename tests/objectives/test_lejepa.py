"""The laws of LeJEPA (Balestriero and LeCun, 2025)."""

import pytest
import torch

from medvit.errors import CheckpointError, ConfigError
from medvit.files.atomic import write_weights
from medvit.losses.gaussianity import draw_directions, sigreg
from medvit.objectives._projector import PROJECTOR
from medvit.objectives.lejepa import LeJepaConfig, distance_to_mean
from medvit.types import Views

PROJECTOR_OPTIONS = {"hidden": 24, "width": 6}


@pytest.mark.parametrize("ndim", [2, 3])
def test_every_weight_learns_from_every_view(make, views, ndim):
    objective = make("lejepa", ndim=ndim, projector=PROJECTOR_OPTIONS)
    objective(views(ndim), 0.5).total.backward()
    assert [name for name, weight in objective.named_parameters() if weight.grad is None] == []


def test_its_terms_are_those_of_the_paper(make, views):
    objective, batch = make("lejepa", projector=PROJECTOR_OPTIONS, gaussian_weight=0.1, num_directions=32), views()
    tokens = [objective.backbone(crops).prefix[:, 0] for crops in (*batch.crops, *batch.local)]
    projected = objective.projector(torch.cat(tokens)).unflatten(0, (4, 3))
    center = (projected[0] + projected[1]) / 2
    torch.manual_seed(3)
    directions = draw_directions(6, 32)
    torch.manual_seed(3)
    terms = objective(batch, 0.0).terms
    expected = 0.9 * torch.stack([(view - center).square().mean() for view in projected]).mean()
    torch.testing.assert_close(terms["prediction"], expected, atol=1e-5, rtol=1e-4)
    spread = torch.stack([sigreg(view, directions) for view in projected]).mean()
    torch.testing.assert_close(terms["gaussianity"], 0.1 * spread, atol=1e-5, rtol=1e-4)


def test_equal_views_predict_one_another(make, views):
    crops = views(num_local=0).crops[:1].repeat(2, 1, 1, 1, 1)
    objective = make("lejepa", projector=PROJECTOR_OPTIONS)
    assert objective(Views(crops), 0.5).terms["prediction"].item() < 1e-10


def test_local_views_do_not_move_the_mean_they_predict():
    projected = torch.randn(4, 3, 5)
    with_other_local = projected.clone()
    with_other_local[2:] += 1.0
    center = projected[:2].mean(dim=0)
    for one in (projected, with_other_local):
        expected = (one - center).square().mean()
        torch.testing.assert_close(distance_to_mean(one, num_global=2), expected)


def test_training_spreads_features_that_begin_alike(make):
    torch.manual_seed(0)
    images = torch.randn(32, 1, 32, 32)
    objective = make("lejepa", projector=PROJECTOR_OPTIONS)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3)
    readings = []
    for _ in range(60):
        crops = images + 0.05 * torch.randn(2, *images.shape)
        optimizer.zero_grad()
        objective(Views(crops), 0.5).total.backward()
        optimizer.step()
        readings.append(float(objective.readings()["sigreg"]))
    assert sum(readings[-10:]) < sum(readings[:10])


def test_a_checkpoint_keeps_the_projector_to_continue_with(make, tmp_path):
    objective = make("lejepa", projector=PROJECTOR_OPTIONS)
    (kept,) = objective.kept().items()
    write_weights(tmp_path / kept[0], kept[1])
    continued = LeJepaConfig.parse({"name": "lejepa"}).continued(tmp_path)
    again = continued.build(objective.backbone)
    for name, weight in objective.projector.state_dict().items():
        assert torch.equal(weight, again.projector.state_dict()[name])
    with pytest.raises(ConfigError, match=r"objective\.projector\.width is 7; .* has 6.*weights=off for a new one"):
        LeJepaConfig.parse({"projector": {"width": 7}}).continued(tmp_path)
    new = LeJepaConfig.parse({"projector": {"weights": "off", **PROJECTOR_OPTIONS}}).continued(tmp_path)
    assert not torch.equal(new.build(objective.backbone).projector[0].weight, objective.projector[0].weight)
    assert PROJECTOR in {path.name for path in tmp_path.iterdir()}


def test_a_projector_of_another_backbone_is_refused(make, tmp_path):
    objective = make("lejepa", projector=PROJECTOR_OPTIONS)
    write_weights(tmp_path / PROJECTOR, objective.projector.state_dict())
    other = make("lejepa", backbone={"width": 16}, projector=PROJECTOR_OPTIONS).backbone
    with pytest.raises(CheckpointError, match="does not contain a projector with these options"):
        LeJepaConfig.parse({}).continued(tmp_path).build(other)
