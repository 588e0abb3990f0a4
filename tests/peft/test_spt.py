"""SPT trains the weights to which the loss is most sensitive, within its budget, and no others."""

from __future__ import annotations

import pytest
import torch

from medvit.backbones.vit import VitConfig
from medvit.errors import ConfigError, TrainingError
from medvit.models.image import Model, ModelConfig
from medvit.models.sensitivity import measure_sensitivity
from medvit.peft.full import FullConfig
from medvit.peft.spt import Choice, SptConfig, choose
from medvit.types import Batch

VIT = {"name": "vit", "ndim": 2, "channels": 1, "patch_size": 4, "width": 16, "depth": 2, "heads": 2}


def random(**shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}


def trained(choice: Choice, sensitivity: dict[str, torch.Tensor], rank: int) -> int:
    low_rank = sum(rank * sum(sensitivity[name].shape) for name in choice.matrices)
    return low_rank + sum(len(indices) for indices in choice.sparse.values())


@pytest.mark.parametrize("budget", [0, 1, 7, 40, 90, 200, 10_000])
def test_the_choice_is_within_the_budget_and_takes_the_most_sensitive_weights(budget: int) -> None:
    sensitivity = random(a=(20, 10), b=(10, 10), bias=(20,))
    sensitivity["a"] *= 3
    choice = choose(sensitivity, budget, rank=1, matrices=["a", "b"])
    assert choice.size == trained(choice, sensitivity, 1) <= budget
    taken = {name: torch.zeros(one.numel(), dtype=torch.bool) for name, one in sensitivity.items()}
    for name, indices in choice.sparse.items():
        taken[name][indices.long()] = True
    whole = [name for name in sensitivity if name not in choice.matrices]
    chosen = torch.cat([sensitivity[name].flatten()[taken[name]] for name in whole])
    others = torch.cat([sensitivity[name].flatten()[~taken[name]] for name in whole])
    if len(chosen) and len(others):
        assert chosen.min() > others.max()
    if budget == 10_000:
        assert choice.matrices == ("a", "b")
        assert len(choice.sparse["bias"]) == 20


def test_a_matrix_gets_low_rank_updates_exactly_when_as_many_of_its_weights_are_chosen() -> None:
    sensitivity = {"a": torch.zeros(20, 10), "b": torch.zeros(20, 10)}
    sensitivity["a"].view(-1)[:30] = 1.0
    sensitivity["b"].view(-1)[:29] = 1.0
    choice = choose(sensitivity, 59, rank=1, matrices=["a", "b"])
    assert choice.matrices == ("a",)
    assert choice.sparse["b"].tolist() == list(range(29))
    assert choice.size == 59


def test_one_budget_more_admits_one_weight_more() -> None:
    sensitivity = random(a=(50,))
    sizes = [choose(sensitivity, budget, rank=1, matrices=[]).size for budget in range(51)]
    assert sizes == list(range(51))


def test_weights_without_a_gradient_are_never_chosen() -> None:
    sensitivity = {"a": torch.tensor([0.0, 2.0, 0.0])}
    assert choose(sensitivity, 3, rank=1, matrices=[]).sparse["a"].tolist() == [1]


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    given = {"kind": "classification", "backbone": VIT, "peft": "full", "head": "linear", "classes": ["a", "b"]}
    config = ModelConfig.parse(given)
    return Model(config, config.backbone.build())


def batches(number: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [Batch(torch.randn(2, 1, 8, 8, generator=generator), torch.tensor([0, 1])) for _ in range(number)]


def loss(logits: torch.Tensor, targets: torch.Tensor, progress: float) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits, targets)


def test_sensitivity_is_the_sum_of_squared_gradients_and_leaves_the_model_as_it_is(model: Model) -> None:
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    found = measure_sensitivity(model, loss, batches(2), seed=0)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert "patch_embed.proj.weight" not in found
    model.eval()
    name, expected = "blocks.1.mlp.fc1.weight", torch.zeros(64, 16)
    for batch in batches(2):
        model.zero_grad()
        loss(model(batch.pixels), batch.targets, 0.0).backward()
        expected += model.backbone.get_parameter(name).grad.square()
    torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=0)


def test_the_matrix_that_the_loss_depends_on_is_chosen(model: Model) -> None:
    """Without outputs of the other layers, only the MLP of the last block changes the logits."""
    with torch.no_grad():
        for name, weight in model.backbone.named_parameters():
            if ".proj." in name or name.startswith("blocks.0.mlp.fc2"):
                weight.zero_()
    found = measure_sensitivity(model, loss, batches(2), seed=0)
    choice = choose(found, 400, rank=1, matrices=[name for name in found if found[name].ndim == 2])
    attention = [name for name in choice.matrices if ".qkv." in name]
    assert "blocks.1.mlp.fc2.weight" in choice.matrices
    assert attention == []


def test_a_gradient_that_is_not_finite_is_refused(model: Model) -> None:
    batch = Batch(torch.full((2, 1, 8, 8), torch.inf), torch.tensor([0, 1]))
    with pytest.raises(TrainingError, match="is not finite before training"):
        measure_sensitivity(model, loss, [batch], seed=0)


def test_a_budget_that_holds_nothing_is_refused() -> None:
    backbone = VitConfig.parse(VIT).build()
    backbone.sensitivity = {"norm.weight": torch.ones(16)}
    with pytest.raises(ConfigError, match="leaves 0 to choose, which is too few"):
        SptConfig(budget=1e-4).adapt(backbone)


def test_without_gradients_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="which only fine-tuning on images measures"):
        SptConfig().adapt(VitConfig.parse(VIT).build())


def test_it_is_described_as_a_whole_backbone() -> None:
    backbone = VitConfig.parse(VIT).build()
    backbone.sensitivity = {name: torch.rand_like(one) for name, one in backbone.named_parameters() if "norm" in name}
    adapted = SptConfig(budget=0.05).adapt(backbone)
    config = VitConfig.parse(VIT)
    assert adapted.described(config) == config
    assert FullConfig().adapt(adapted.merge()).backbone.state_dict().keys() == config.build().state_dict().keys()
