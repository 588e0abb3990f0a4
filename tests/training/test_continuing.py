"""Continued training: ExPLoRA by default, a separate adapter, heads first, then fine-tuning."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from medvit.artifacts import ADAPTER, Checkpoint
from medvit.backbones.vit import VitConfig
from medvit.errors import ConfigError
from medvit.models.image import Model
from medvit.peft.explora import ExploraConfig
from medvit.peft.lora import LoraConfig
from medvit.registry import find, names
from pipelines.finetune import finetune
from pipelines.pretrain import pretrain
from tests.training.guard.test_guard import image_options
from tests.training.test_runs import TINY, finetune_options, same_weights

HEAD = {"hidden": 32, "bottleneck": 16, "prototypes": 24}
DINO = {"name": "dino", "head": HEAD, "momentum": 0.5, "views": {"size": [16, 16], "num_local": 2}}


@pytest.fixture(scope="module")
def start(images, tmp_path_factory) -> Checkpoint:
    options = image_options(images, optim={"lr": 1e-3})
    return Checkpoint.load(pretrain(output=tmp_path_factory.mktemp("start") / "x", **options).folder)


@pytest.mark.parametrize("objective", [None, DINO], ids=["mae", "dino"])
def test_a_checkpoint_is_continued_by_explora_whose_adapter_on_it_gives_the_merged_weights(
    images, start, tmp_path, objective
):
    options = image_options(images, checkpoint=start.folder, optim={"lr": 1e-2}, guard="off")
    made = pretrain(output=tmp_path / "out", **(options | ({"objective": objective} if objective else {})))
    adapter, merged = load_file(made.folder / ADAPTER), Checkpoint.load(made.folder)
    assert any("lora_A" in name for name in adapter)
    assert not any(name.startswith("objective") for name in adapter)
    assert "weights: explora, " in (made.folder / "model_card.md").read_text()
    backbone = VitConfig.parse(start.model["backbone"]).build()
    backbone.load_state_dict(dict(start.state))
    peft = ExploraConfig().adapt(backbone)
    assert adapter.keys() == peft.trained()
    peft.backbone.load_state_dict(adapter, strict=False)
    assert not same_weights(merged, start)
    for name, weight in peft.merge().state_dict().items():
        torch.testing.assert_close(weight, merged.state[name], atol=1e-6, rtol=0)
    frozen = {"patch_embed.proj.weight", "cls_token"}
    assert all(torch.equal(merged.state[name], start.state[name]) for name in frozen)


def test_public_weights_are_continued_by_explora_and_scratch_is_trained_whole(images, start, tmp_path):
    save_file(dict(start.state), tmp_path / "public.safetensors")
    options = image_options(images)
    options["backbone"] = options["backbone"] | {"weights": str(tmp_path / "public.safetensors")}
    assert (pretrain(output=tmp_path / "continued", **options).folder / ADAPTER).is_file()
    assert not (start.folder / ADAPTER).exists()
    assert "weights: full, " in (start.folder / "model_card.md").read_text()


def test_a_grown_backbone_goes_on_into_finetuning(images, start, tmp_path):
    grown = pretrain(
        output=tmp_path / "grown",
        **image_options(images, checkpoint=start.folder, peft={"name": "block_expansion", "num_blocks": 2}),
    )
    assert grown.model["backbone"]["depth"] == 4
    assert {name.split(".")[1] for name in load_file(grown.folder / ADAPTER)} == {"1", "3"}
    options = finetune_options(
        images, checkpoint=grown.folder, head=None, peft={"name": "block_expansion", "num_blocks": 1}
    )
    tuned = finetune(output=tmp_path / "tuned", **options)
    assert tuned.model["backbone"]["depth"] == 5
    from medvit.models.image import Model

    assert Model.from_checkpoint(Checkpoint.load(tuned.folder)).predict(torch.randn(1, 1, 16, 16)).shape == (1, 2)


@pytest.fixture(scope="module")
def explored(images, start, tmp_path_factory) -> Checkpoint:
    """A backbone continued by ExPLoRA, with its adapter in a separate file."""
    options = image_options(images, checkpoint=start.folder, peft={"name": "explora", "rank": 2}, guard="off")
    made = pretrain(output=tmp_path_factory.mktemp("explored") / "x", **options | {"optim": {"lr": 1e-2}})
    return Checkpoint.load(made.folder)


def test_finetuning_goes_on_with_the_adapter_to_one_that_holds_both_trainings(images, start, explored, tmp_path):
    options = finetune_options(images, checkpoint=explored.folder, head=None, peft="continue", optim={"lr": 1e-2})
    tuned = Checkpoint.load(finetune(output=tmp_path / "tuned", **options).folder)
    assert tuned.model["peft"] == explored.model["peft"]
    adapter = {name.removeprefix("backbone."): weight for name, weight in load_file(tuned.folder / ADAPTER).items()}
    assert {name for name in adapter if not name.startswith("head.")} == load_file(explored.folder / ADAPTER).keys()
    backbone = VitConfig.parse(start.model["backbone"]).build()
    backbone.load_state_dict(dict(start.state))
    peft = ExploraConfig.parse(tuned.model["peft"]).adapt(backbone)
    peft.backbone.load_state_dict(adapter, strict=False)
    for name, weight in peft.merge().state_dict().items():
        torch.testing.assert_close(weight, tuned.state[f"backbone.{name}"], atol=1e-5, rtol=0)


def test_without_a_step_the_continued_model_is_the_pretrained_one(images, explored, tmp_path):
    still = {"lr": 1e-30, "min_lr": 0.0}
    options = finetune_options(images, checkpoint=explored.folder, head=None, peft="continue", optim=still)
    tuned = Checkpoint.load(finetune(output=tmp_path / "tuned", **options).folder)
    for name, weight in explored.state.items():
        torch.testing.assert_close(tuned.state[f"backbone.{name}"], weight, atol=1e-6, rtol=0)


def test_pretraining_goes_on_with_its_adapter_too(images, explored, tmp_path):
    options = image_options(images, checkpoint=explored.folder, peft="continue", guard="off")
    made = pretrain(output=tmp_path / "on", **options)
    assert made.model["peft"] == explored.model["peft"]
    assert load_file(made.folder / ADAPTER).keys() == load_file(explored.folder / ADAPTER).keys()


def test_a_checkpoint_whose_weights_were_all_trained_has_no_adapter_to_go_on_with(images, start, tmp_path):
    with pytest.raises(ConfigError, match="peft=continue requires a pretrained checkpoint with a separate adapter"):
        finetune(output=tmp_path / "x", **finetune_options(images, checkpoint=start.folder, head=None, peft="continue"))


def test_while_heads_warm_up_the_backbone_stays_bit_for_bit(images, start, tmp_path):
    options = image_options(images, checkpoint=start.folder, peft="full", guard="off")
    held = pretrain(output=tmp_path / "held", **options, optim={"freeze": 1.0})
    assert same_weights(Checkpoint.load(held.folder), start)
    free = pretrain(output=tmp_path / "free", **options, optim={"freeze": 0.5})
    assert not same_weights(Checkpoint.load(free.folder), start)


def test_random_weights_held_fixed_are_warned_of(images, tmp_path, caplog):
    pretrain(output=tmp_path / "out", **image_options(images, peft="lora"))
    assert "peft=lora freezes randomly initialized weights" in caplog.text


def test_finetuning_from_scratch_trains_every_weight_and_a_checkpoint_is_adapted_by_lora(images, start, tmp_path):
    scratch = finetune(output=tmp_path / "scratch", **finetune_options(images, head=None, backbone={**TINY, "ndim": 2}))
    assert scratch.model["peft"]["name"] == "full"
    assert not (scratch.folder / ADAPTER).exists()
    tuned = finetune(output=tmp_path / "tuned", **finetune_options(images, head=None, checkpoint=start.folder))
    assert tuned.model["peft"]["name"] == "lora"


def test_finetuning_that_holds_random_weights_fixed_warns(images, tmp_path, caplog):
    options = finetune_options(images, head=None, backbone={**TINY, "ndim": 2}, peft="frozen")
    finetune(output=tmp_path / "out", **options)
    assert "peft=frozen freezes randomly initialized weights; give checkpoint or backbone.weights" in caplog.text


@pytest.fixture(scope="module")
def with_adapter(start, tmp_path_factory) -> Checkpoint:
    """A pretrained backbone of three blocks, with an adapter of LoRA merged."""
    config = VitConfig.parse(start.model["backbone"] | {"depth": 3})
    peft = LoraConfig(rank=2).adapt(config.build())
    adapter = peft.state_of(peft.trained())
    model = {"kind": "backbone", "backbone": config.tree(), "peft": LoraConfig(rank=2).tree()}
    folder = tmp_path_factory.mktemp("with_adapter") / "x"
    return Checkpoint(folder, model, start.preprocess, peft.merge().state_dict(), adapter).save()


@pytest.mark.parametrize("way", names("medvit.peft"))
def test_every_way_is_finetuned_into_a_checkpoint_that_is_restored_and_continued(images, with_adapter, tmp_path, way):
    options = finetune_options(images, head="linear", checkpoint=with_adapter.folder, optim={"lr": 1e-2})
    options.pop("backbone")
    made = Checkpoint.load(finetune(output=tmp_path / "out", **options, peft=way).folder)
    restored = Model.from_checkpoint(made)
    assert all(torch.equal(weight, made.state[name]) for name, weight in restored.state_dict().items())
    kind = find("medvit.peft", made.model["peft"]["name"]).parse_saved(made.model["peft"], source="model.yaml")
    backbone = restored.backbone
    pixels = torch.randn(2, backbone.channels, 16, 16, generator=torch.Generator().manual_seed(1))
    expected = backbone(pixels).patches
    stored = {name.removeprefix("backbone."): w for name, w in (made.stored_adapter() or made.state).items()}
    weights = {name: weight for name, weight in stored.items() if not name.startswith("head.")}
    continued = kind.go_on(backbone, weights).backbone.eval()
    torch.testing.assert_close(continued(pixels).patches, expected, atol=1e-4, rtol=1e-4)
