"""Learning rates and decay apply to the right weights."""

from pathlib import Path

import pytest
from safetensors.torch import save_file

from medvit.backbones.vit import VitConfig
from medvit.objectives.dino import DinoConfig
from medvit.objectives.mae import MaeConfig
from medvit.peft.adalora import AdaLoraConfig
from medvit.peft.adaptformer import AdaptformerConfig
from medvit.peft.dora import DoraConfig
from medvit.peft.explora import ExploraConfig
from medvit.peft.full import FullConfig
from medvit.peft.ia3 import Ia3Config
from medvit.peft.lora import LoraConfig
from medvit.peft.rslora import RsLoraConfig
from medvit.peft.selective_lora import SelectiveLoraConfig
from medvit.peft.vera import VeraConfig
from medvit.peft.vpt import VptConfig
from medvit.stage import Run
from medvit.tracking import Tracker
from medvit.training.optim import OptimConfig, OptimOptions, continued, layer_of
from pipelines.finetune import FinetuneConfig, assemble
from pipelines.pretrain import PretrainConfig
from tests.training.test_runs import TINY, finetune_options

CONFIGS = Path(__file__).parents[2] / "configs"


def test_the_rate_rises_to_its_peak_and_falls_to_its_floor():
    optim = OptimConfig(lr=1e-3, min_lr=1e-5, warmup=0.1)
    assert optim.rate(0.05) == pytest.approx(5e-4)
    assert optim.rate(0.1) == pytest.approx(1e-3)
    assert optim.rate(1.0) == pytest.approx(1e-5)
    assert optim.rate(0.3) > optim.rate(0.6) > optim.rate(0.9)


def test_no_rate_is_lost_without_warm_up():
    assert OptimConfig(lr=1e-3, warmup=0.0).rate(0.0) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.backbone.patch_embed.proj.weight", 0),
        ("model.backbone.cls_token", 0),
        ("model.backbone.blocks.0.attn.qkv.weight", 1),
        ("model.backbone.blocks.11.mlp.fc1.bias", 12),
        ("model.backbone.norm.weight", 13),
        ("model.head.linear.weight", 13),
        ("model.backbone.prompts", 13),
        ("model.backbone.blocks.0.adapter.down.weight", 13),
        ("model.backbone.blocks.0.attn.qkv.lora_A.default.weight", 13),
        ("model.backbone.blocks.0.mlp.fc2.ia3_l.default", 13),
        ("model.backbone.blocks.0.attn.qkv.vera_lambda_b.default", 13),
        ("model.backbone.blocks.0.attn.qkv.selection_score", 13),
        ("model.backbone.blocks.0.attn.qkv.base_layer.weight", 1),
    ],
)
def test_layers_are_counted_from_the_embedding_to_the_head(name, layer):
    assert layer_of(name, depth=12) == layer


@pytest.mark.parametrize(
    "way",
    [VptConfig(), VptConfig(depth="shallow"), AdaptformerConfig(), VeraConfig(), DoraConfig(), AdaLoraConfig()],
    ids=str,
)
def test_new_parameters_of_the_backbone_have_the_rate_of_the_head(way) -> None:
    backbone = VitConfig(ndim=2, channels=1, patch_size=8, width=64, depth=2, heads=2).build()
    named = [(f"model.backbone.{name}", weight) for name, weight in way.adapt(backbone).backbone.named_parameters()]
    groups = OptimConfig(layer_decay=0.5, pretrained_scale=0.1).groups(named, depth=2)
    assert {group["scale"] for group in groups} == {1.0}


@pytest.mark.parametrize("depth", [2, 12])
def test_layer_decay_is_that_of_the_thorax_recipe(depth):
    """Multipliers are 0.55 ** (L - i): of depth 12, 13 for the embedding and the blocks, and 1 for the rest."""
    backbone = VitConfig(ndim=2, channels=1, patch_size=8, width=64, depth=depth, heads=2).build()
    objective = MaeConfig(decoder_width=64, decoder_depth=1, decoder_heads=2).build(backbone)
    named = [(f"objective.{name}", weight) for name, weight in objective.named_parameters()]
    groups = OptimConfig(layer_decay=0.55).groups(named, depth=depth)
    assert {round(group["scale"], 9) for group in groups} == {round(0.55**power, 9) for power in range(depth + 2)}


def test_biases_norms_and_tokens_do_not_decay():
    backbone = VitConfig(ndim=2, channels=1, patch_size=8, width=64, depth=1, heads=2).build()
    groups = OptimConfig(weight_decay=0.1).groups(backbone.named_parameters(), depth=1)
    decayed = {id(weight) for group in groups if group["weight_decay"] > 0 for weight in group["params"]}
    for name, weight in backbone.named_parameters():
        assert (id(weight) in decayed) == (weight.ndim > 1 and "token" not in name and "pos_embed" not in name), name


def test_scales_do_not_decay_and_are_trained_at_the_full_rate():
    """Decay would move them to 0, and 1 changes nothing."""
    backbone = VitConfig(ndim=2, channels=1, patch_size=8, width=64, depth=1, heads=2).build()
    named = [(f"backbone.{name}", weight) for name, weight in Ia3Config().adapt(backbone).backbone.named_parameters()]
    (group,) = OptimConfig(weight_decay=0.1, pretrained_scale=0.1).groups(named, depth=1)
    assert (group["weight_decay"], group["scale"]) == (0.0, 1.0)


@pytest.mark.parametrize(
    "way",
    [LoraConfig(rank=2), RsLoraConfig(rank=2), DoraConfig(rank=2), ExploraConfig(rank=2), SelectiveLoraConfig(rank=2)],
    ids=lambda way: way.name,
)
def test_lora_plus_trains_the_second_factors_alone_at_a_higher_rate(way) -> None:
    backbone = VitConfig(ndim=2, channels=1, patch_size=8, width=64, depth=2, heads=2).build()
    named = [(f"backbone.{name}", weight) for name, weight in way.adapt(backbone).backbone.named_parameters()]
    groups = OptimConfig(lora_b_scale=16.0).groups(named, depth=2)
    fast = {id(weight) for group in groups if group["scale"] == 16.0 for weight in group["params"]}
    assert fast == {id(weight) for name, weight in named if name.endswith("lora_B.default.weight")}
    assert fast
    assert {group["scale"] for group in groups} == {1.0, 16.0}


@pytest.mark.parametrize("way", [FullConfig(), AdaLoraConfig()], ids=["full", "adalora"])
def test_a_rate_of_factors_that_are_not_zero_at_the_start_is_ignored_with_a_warning(way, caplog) -> None:
    backbone = VitConfig(ndim=2, channels=1, patch_size=8, width=64, depth=1, heads=2).build()
    optimizer = OptimConfig(lora_b_scale=16.0).build(way.adapt(backbone).backbone, depth=1)
    assert {group["scale"] for group in optimizer.param_groups} == {1.0}
    assert "optim.lora_b_scale=16 is ignored: no factor B of LoRA is trained" in caplog.text


def test_the_rate_follows_the_batch_as_published():
    """B / 256 in DINO and MAE, the root of B / 1024 in DINOv2."""
    assert OptimConfig(lr=5e-4, scaling="linear").for_batch(512).lr == pytest.approx(1e-3)
    assert OptimConfig(lr=4e-3, scaling="sqrt").for_batch(256).lr == pytest.approx(2e-3)
    assert OptimConfig(lr=4e-3).for_batch(256).lr == pytest.approx(4e-3)


def test_weight_decay_moves_along_a_cosine_where_an_end_is_given():
    optim = OptimConfig(weight_decay=0.04, weight_decay_end=0.4)
    assert [optim.decay(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.04, 0.22, 0.4])
    assert OptimConfig(weight_decay=0.05).decay(0.7) == pytest.approx(0.05)


def test_the_patch_embedding_learns_at_a_rate_of_its_own():
    backbone = VitConfig(ndim=2, channels=1, patch_size=8, width=64, depth=1, heads=2).build()
    named = [(f"objective.backbone.{name}", weight) for name, weight in backbone.named_parameters()]
    groups = OptimConfig(patch_embed_scale=0.2).groups(named, depth=1)
    slow = {id(weight) for group in groups if group["scale"] == 0.2 for weight in group["params"]}
    assert slow == {id(weight) for weight in backbone.patch_embed.parameters()}


def test_a_constant_rate_stays_after_the_warm_up():
    config = OptimConfig(lr=1e-4, schedule="constant", warmup=0.2)
    assert [config.rate(progress) for progress in (0.1, 0.2, 0.6, 1.0)] == [5e-5, 1e-4, 1e-4, 1e-4]


def test_the_backbone_is_held_then_joins_by_a_ramp():
    config = OptimConfig(freeze=0.2, ramp=0.4)
    assert [config.backbone_share(progress) for progress in (0.0, 0.2, 0.4, 0.6, 1.0)] == pytest.approx(
        [0.0, 0.0, 0.5, 1.0, 1.0]
    )
    assert OptimConfig().backbone_share(0.01) == 1.0


def test_what_is_unset_follows_the_objective_from_scratch() -> None:
    found = OptimOptions(warmup=0.3).over(DinoConfig.OPTIM)
    assert (found.lr, found.scaling, found.weight_decay, found.weight_decay_end) == (5e-4, "linear", 0.04, 0.4)
    assert (found.betas, found.warmup, found.clip) == ((0.9, 0.999), 0.3, 3.0)
    assert OptimOptions().over({}) == OptimConfig()


def test_given_weights_are_continued_with_a_small_constant_rate_whatever_the_objective() -> None:
    proposed = continued(DinoConfig.OPTIM, trains_whole_weights=True, has_new_head=True)
    found = OptimOptions().over(proposed)
    assert (found.lr, found.schedule, found.scaling, found.freeze) == (2e-4, "constant", "off", 0.05)
    assert found.weight_decay_end is None
    assert found.betas == (0.9, 0.999)
    assert continued({}, trains_whole_weights=True, has_new_head=False)["freeze"] == 0.0


def test_a_rate_that_is_given_is_that_of_all_weights() -> None:
    proposed = continued({}, trains_whole_weights=True, has_new_head=False)
    assert OptimOptions().over(proposed).pretrained_scale == 0.15
    assert OptimOptions(lr=1e-4).over(proposed).pretrained_scale == 1.0
    assert OptimOptions(lr=1e-4, pretrained_scale=0.5).over(proposed).pretrained_scale == 0.5


def test_whole_blocks_and_norms_are_continued_more_slowly_than_lora_factors_and_heads() -> None:
    backbone = VitConfig(ndim=2, channels=1, patch_size=8, width=64, depth=4, heads=2).build()
    ExploraConfig(rank=2).adapt(backbone)
    objective = MaeConfig(decoder_width=64, decoder_depth=1, decoder_heads=2).build(backbone)
    named = [(f"objective.{name}", weight) for name, weight in objective.named_parameters()]
    groups = OptimConfig(pretrained_scale=0.1).groups(named, depth=4)
    scales = {id(weight): group["scale"] for group in groups for weight in group["params"]}
    found = {name: scales[id(weight)] for name, weight in named if id(weight) in scales}
    assert {scale for name, scale in found.items() if "lora_" in name or "backbone" not in name} == {1.0}
    assert {scale for name, scale in found.items() if "lora_" not in name and "backbone" in name} == {0.1}


@pytest.mark.parametrize("way", [FullConfig(), ExploraConfig(rank=2)], ids=["full", "explora"])
def test_tokens_that_a_public_file_lacks_have_the_rate_of_the_head(way, tmp_path: Path) -> None:
    shape = {"ndim": 2, "channels": 1, "patch_size": 8, "width": 64, "depth": 2, "heads": 2}
    save_file(VitConfig(**shape).build().state_dict(), tmp_path / "w.safetensors")
    backbone = VitConfig(**shape, registers=2, weights=str(tmp_path / "w.safetensors")).build()
    objective = DinoConfig(head={"hidden": 8, "bottleneck": 8, "prototypes": 4}).build(way.adapt(backbone).backbone)
    optimizer = OptimConfig(layer_decay=0.5, pretrained_scale=0.1).build(objective, depth=2)
    scales = {id(weight): group["scale"] for group in optimizer.param_groups for weight in group["params"]}
    assert scales[id(objective.trained.reg_token)] == 1.0
    assert scales[id(objective.trained.blocks[1].mlp.fc1.weight)] == pytest.approx(0.1 * 0.5)


@pytest.mark.parametrize(("is_given", "scale"), [(False, 1.0), (True, 0.7**3)])
def test_full_fine_tuning_of_pretrained_weights_learns_more_slowly_below(
    images: Path, tmp_path: Path, is_given: bool, scale: float
) -> None:
    options = finetune_options(images, output=tmp_path / "out", head=None, peft="full", optim={})
    options["backbone"] = TINY | {"ndim": 2, "depth": 2}
    if is_given:
        plain = VitConfig.parse({key: value for key, value in options["backbone"].items() if key != "name"})
        save_file(plain.build().state_dict(), tmp_path / "w.safetensors")
        options["backbone"] |= {"weights": str(tmp_path / "w.safetensors")}
    made = assemble(FinetuneConfig.parse(options), Run("finetune", tmp_path, Tracker()))
    assert made.optim.layer_decay == (0.7 if is_given else 1.0)
    groups = made.module.optim.groups(made.module.named_parameters(), depth=2)
    assert min(group["scale"] for group in groups) == pytest.approx(scale)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/pretrain*.yaml")), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_the_options_of_a_preset_in_force_read_alike_again(path: Path) -> None:
    config = PretrainConfig.load(path, ["dataset=somewhere", "output=elsewhere"])
    found = config.optim.over(config.objective.OPTIM)
    assert OptimOptions.parse(found.tree()).over({}) == found
