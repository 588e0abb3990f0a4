"""AdaLoRA: ranks fall to their budget by a schedule, and a resumed or exported adapter has the same ranks."""

import json

import pytest
import torch
from safetensors.torch import load_file

from medvit.artifacts import Checkpoint
from medvit.backbones.vit import VitConfig
from medvit.errors import ConfigError, TrainingError
from medvit.models.interchange import to_peft
from medvit.peft.adalora import MOVING_AVERAGES, AdaLoraConfig
from medvit.peft.lora import LoraConfig
from medvit.training.assembly import require_whole_weights

CONFIG = VitConfig(ndim=2, channels=1, patch_size=8, width=32, depth=2, heads=2)
PIXELS = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(1))
NUM_LAYERS = 8


def adapted(**options):
    torch.manual_seed(0)
    way = AdaLoraConfig(**{"rank": 2, "initial_rank": 4, "interval": 1} | options)
    peft = way.adapt(CONFIG.build().eval())
    peft.begin(20)
    return peft


def train(peft, steps, optimizer=None):
    """Steps as fine-tuning takes them; the optimizer, for more."""
    trained = [weight for weight in peft.backbone.parameters() if weight.requires_grad]
    optimizer = optimizer or torch.optim.AdamW(trained, lr=1e-2, fused=True)
    for step in steps:
        optimizer.zero_grad()
        loss = (peft.backbone(PIXELS).prefix[:, 0] - PIXELS.flatten(1)[:, :32]).square().mean()
        (loss + peft.penalty()).backward()
        optimizer.step()
        peft.after_step(step)
    return optimizer


def test_the_total_rank_falls_from_the_first_to_the_last_budget():
    peft, totals = adapted(), []
    optimizer = None
    for step in range(1, 21):
        optimizer = train(peft, [step], optimizer)
        totals.append(sum(peft.ranks.values()))
    assert totals[:2] == [4 * NUM_LAYERS] * 2, "warm-up of a tenth"
    assert totals == sorted(totals, reverse=True)
    assert totals[9:] == [2 * NUM_LAYERS] * 11, "the last half"
    assert len(set(peft.ranks.values())) > 1, "layers differ in importance"


def test_a_resumed_schedule_prunes_the_same_triplets():
    whole, cut = adapted(), adapted()
    train(whole, range(1, 21))
    optimizer = train(cut, range(1, 8))
    resumed = adapted()
    resumed.backbone.load_state_dict(cut.backbone.state_dict())
    resumed.resume(cut.progress())
    again = torch.optim.AdamW([w for w in resumed.backbone.parameters() if w.requires_grad], lr=1e-2, fused=True)
    again.load_state_dict(optimizer.state_dict())
    train(resumed, range(8, 21), again)
    assert resumed.ranks == whole.ranks
    for name, weight in whole.backbone.state_dict().items():
        assert torch.equal(resumed.backbone.state_dict()[name], weight), name


def test_averages_of_a_resumed_run_move_to_the_device_of_the_weights():
    """Training restores its state first, and moves the model to its device afterwards."""
    cut, resumed = adapted(), adapted()
    train(cut, range(1, 4))
    resumed.resume(cut.progress())
    resumed.backbone.to("meta")
    resumed.begin(20)
    averages = [value for name in MOVING_AVERAGES for value in resumed.progress()[name].values()]
    assert len(averages) == 3 * len(cut.trained())
    assert {value.device.type for value in averages} == {"meta"}


def spoil(peft, value):
    for weight in peft.backbone.parameters():
        if weight.requires_grad:
            weight.grad = torch.full_like(weight, value)


@pytest.mark.parametrize("value", [torch.inf, torch.nan, 0.0])
def test_a_step_skipped_for_an_overflow_changes_no_average_and_the_ranks_reach_their_budget(value):
    """Zero: clipping by an infinite norm, when another gradient overflowed."""
    peft = adapted()
    spoil(peft, value)
    peft.after_step(1)  # before there are averages
    optimizer = train(peft, range(2, 6))
    before = {name: dict(peft.progress()[name]) for name in MOVING_AVERAGES}
    spoil(peft, value)
    peft.after_step(6)
    for name, averages in before.items():
        for key, average in averages.items():
            assert torch.equal(peft.progress()[name][key], average)
    train(peft, range(7, 21), optimizer)
    assert sum(peft.ranks.values()) == 2 * NUM_LAYERS


def test_a_run_without_a_finite_gradient_before_the_last_reduction_is_stopped():
    peft = adapted()
    for step in range(1, 10):
        spoil(peft, torch.nan)
        peft.after_step(step)
    with pytest.raises(TrainingError, match=r"cannot reduce ranks at step 10: no step before it had finite gradients"):
        peft.after_step(10)


def test_orthogonal_factors_have_no_penalty():
    peft = adapted()
    assert peft.penalty().item() > 0.1
    for _, layer in peft.layers():
        torch.nn.init.orthogonal_(layer.lora_A["default"])
        torch.nn.init.orthogonal_(layer.lora_B["default"])
    assert peft.penalty().item() < 1e-5


def test_an_exported_adapter_has_the_ranks_without_pruned_triplets(tmp_path):
    peft = adapted()
    train(peft, range(1, 21))
    with torch.no_grad():
        peft.backbone.blocks[0].mlp.fc1.lora_E["default"].zero_()
    ranks, way = peft.ranks, AdaLoraConfig(rank=2, initial_rank=4)
    adapter = peft.state_of(peft.trained())
    model = {"kind": "backbone", "backbone": CONFIG.tree(), "peft": way.tree()}
    made = Checkpoint(
        tmp_path / "model", model, {"kind": "image", "size": [16, 16]}, peft.merge().state_dict(), adapter
    )
    folder = to_peft(made.save(), tmp_path / "peft")
    stored = load_file(folder / "adapter_model.safetensors")
    pattern = json.loads((folder / "adapter_config.json").read_text())["rank_pattern"]
    for layer, rank in ranks.items():
        assert len(stored[f"base_model.model.{layer}.lora_E"]) == sum(pattern[f"{layer}.lora_E"]) == rank


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"warmup": 0.6, "final": 0.5}, "leave no steps to reduce ranks"),
        ({"rank": 8, "initial_rank": 4}, "initial_rank is 4; expected more than rank 8"),
        ({"rank": 12}, "initial_rank is 12; expected more than rank 12"),
    ],
)
def test_schedules_that_cannot_work_are_refused(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        AdaLoraConfig.parse(options)


@pytest.mark.parametrize("num_steps", [0, 1, 2])
def test_too_few_steps_are_refused(num_steps):
    with pytest.raises(ConfigError, match=f"peft=adalora has no steps to reduce ranks: {num_steps} in total"):
        adapted().begin(num_steps)


def test_one_rank_is_pruned_from_each_update():
    peft = adapted(rank=3)
    train(peft, range(1, 21))
    assert sum(peft.ranks.values()) == 3 * NUM_LAYERS


def test_three_steps_reduce_the_ranks():
    peft = adapted()
    peft.begin(3)
    train(peft, [1, 2, 3])
    assert sum(peft.ranks.values()) == 2 * NUM_LAYERS


def test_sharded_weights_are_refused():
    with pytest.raises(
        ConfigError, match=r"peft=adalora needs whole weights and gradients, which trainer\.strategy=fsdp"
    ):
        require_whole_weights(AdaLoraConfig(), "fsdp")
    require_whole_weights(AdaLoraConfig(), "ddp")
    require_whole_weights(LoraConfig(), "fsdp")
