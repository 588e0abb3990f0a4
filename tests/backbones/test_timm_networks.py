"""Networks of timm as backbones: features of timm itself, checkpoints, fine-tuning, and refusals."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from medvit.artifacts import Checkpoint
from medvit.backbones.timm_layout import timm_model
from medvit.backbones.timm_network import TimmConfig
from medvit.errors import CheckpointError, ConfigError, DataError
from medvit.heads.dense import DenseConfig
from medvit.models.image import Model, ModelConfig
from pipelines.finetune import finetune
from pipelines.pretrain import pretrain
from tests.training.conftest import dataset

CONVOLUTIONAL = ("resnet18", "convnext_atto", "efficientnet_b0")
ANY_SIZE = {
    "swin_tiny_patch4_window7_224": {"strict_img_size": False},
    "vit_tiny_patch16_224": {"dynamic_img_size": True},
    "eva02_tiny_patch14_224": {"dynamic_img_size": True},
}
SMALL = (*CONVOLUTIONAL, *ANY_SIZE)


def side_for(name: str) -> int:
    return 56 if "patch14" in name else 64


def noise(channels: int = 3, side: int = 64) -> torch.Tensor:
    return torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(0))


def task(kind: str, head: dict, way: str, name: str = "resnet18") -> ModelConfig:
    backbone = {"name": "timm", "model": name, "channels": 1, "ndim": 2}
    tree = {"kind": kind, "backbone": backbone, "peft": {"name": way}, "head": head, "classes": ["a", "b"]}
    return ModelConfig.parse(tree)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return dataset(tmp_path_factory.mktemp("data") / "images", ndim=2)


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(timm.create_model("resnet18", pretrained=False).state_dict(), path)
    return path


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_features_are_those_of_timm_with_the_same_weights(name, tmp_path):
    model = timm.create_model(name, pretrained=False, **ANY_SIZE.get(name, {})).eval()
    save_file(model.state_dict(), tmp_path / "timm.safetensors")
    backbone = TimmConfig(model=name, channels=3, weights=str(tmp_path / "timm.safetensors")).build().eval()
    pixels = noise(side=side_for(name))
    expected = model.forward_features(pixels)
    if expected.ndim == 4:
        expected = (expected.movedim(-1, 1) if name.startswith("swin") else expected).flatten(2).transpose(1, 2)
    tokens = backbone(pixels)
    assert torch.equal(torch.cat([tokens.prefix, tokens.patches], dim=1), expected)
    assert backbone.width == expected.shape[2]


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_layers_have_the_declared_width_and_stride(name):
    backbone, side = TimmConfig(model=name, channels=1).build().eval(), side_for(name)
    for layer, tokens in enumerate(backbone.intermediate(noise(1, side), range(backbone.depth))):
        assert tokens.patches.shape[2] == backbone.width_of(layer)
        assert tokens.grid == tuple(side // stride for stride in backbone.stride_of(layer))


@pytest.mark.parametrize("name", [*CONVOLUTIONAL, "swin_tiny_patch4_window7_224"])
def test_every_weight_affects_the_features(name):
    backbone = TimmConfig(model=name, channels=1).build().eval()
    backbone(noise(1)).patches.square().sum().backward()
    assert [key for key, weight in backbone.named_parameters() if weight.grad is None] == []


@torch.no_grad()
def test_a_gray_image_has_the_features_of_the_same_image_in_rgb(resnet_file):
    gray, rgb = (TimmConfig(channels=count, weights=str(resnet_file)).build().eval() for count in (1, 3))
    assert gray.fit.adapted == {"conv1.weight": "(64, 3, 7, 7) -> (64, 1, 7, 7)"}
    found, expected = gray(noise(1)).patches, rgb(noise(1).expand(-1, 3, -1, -1)).patches
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)  # float32, in units of a feature


@pytest.mark.parametrize("name", SMALL)
def test_the_dense_head_segments_any_size(name):
    config = task("segmentation", {"name": "dense", "channels": 4}, "frozen", name)
    model = Model(config, config.backbone.build())
    logits = model(noise(1, side=50))
    logits.sum().backward()
    assert logits.shape == (1, 2, 50, 50)
    assert all(read.weight.grad.any() for read in model.head.read)


def test_a_head_on_a_pyramid_reads_each_level_at_its_resolution():
    head = DenseConfig(channels=4).build(TimmConfig(channels=1).build(), 2)
    assert [layer.in_features for layer in head.read] == [64, 128, 256, 512]
    assert [layer.out_features for layer in head.read] == [16, 32, 64, 128]


def options(data, folder, **more) -> dict:
    backbone = {"name": "timm", "model": "resnet18"} | more.pop("backbone", {})
    return {
        "dataset": data,
        "output": folder,
        "tracking": {"enabled": False},
        "backbone": backbone,
        "trainer": {"epochs": 2, "steps_per_epoch": 2, "precision": "32-true"},
        "loader": {"batch_size": 4},
    } | more


@pytest.mark.parametrize("way", ["full", "frozen", "bitfit"])
def test_a_fine_tuned_network_is_restored_from_its_checkpoint(way, images, resnet_file, tmp_path):
    weights = {"weights": str(resnet_file)}
    checkpoint = finetune(**options(images, tmp_path / "run", backbone=weights, peft={"name": way}))
    model = Model.from_checkpoint(checkpoint)
    start = TimmConfig(channels=1, **weights).build().state_dict()
    changed = {name for name, weight in model.backbone.state_dict().items() if not torch.equal(weight, start[name])}
    if way == "full":
        assert {"network.conv1.weight", "network.bn1.running_mean"} <= changed
    else:
        assert all(name.endswith("bias") for name in changed)
        assert bool(changed) == (way == "bitfit")
    again = Model.from_checkpoint(Checkpoint.load(tmp_path / "run"))
    assert torch.equal(again.predict(noise(1, side=16)), model.predict(noise(1, side=16)))


def test_the_kept_epoch_has_its_own_batch_statistics():
    config = task("classification", {"name": "linear"}, "full")
    assert "backbone.network.bn1.running_mean" in Model(config, config.backbone.build()).adapter_state()


def test_weights_of_another_network_are_refused(resnet_file):
    with pytest.raises(CheckpointError, match=r"weights do not fit, first .*; set backbone.model to the network"):
        TimmConfig(model="resnet34", channels=3, weights=str(resnet_file)).build()


def test_nothing_is_downloaded():
    with pytest.raises(CheckpointError, match="downloads nothing: give a local file"):
        TimmConfig(weights="hub:resnet18").build()
    with pytest.raises(ConfigError, match="timm has no model named"):
        TimmConfig(model="hf-hub:timm/resnet18.a1_in1k").build()


def test_batch_statistics_of_a_single_value_are_refused():
    network = TimmConfig().build()
    with pytest.raises(DataError, match=r"set a larger loader\.batch_size or crop"):
        network.train()(noise(1, side=32))
    assert torch.isfinite(network.requires_grad_(False)(noise(1, side=32)).patches).all()


def test_export_to_timm_explains_that_none_is_needed():
    config = TimmConfig()
    with pytest.raises(CheckpointError, match=r"resnet18 of timm and does not need a conversion"):
        timm_model(config.build(), config, (64, 64))


def test_an_unknown_network_is_refused_with_the_nearest_names():
    with pytest.raises(ConfigError, match=r"backbone.model='resnet81'; nearest are .*resnet18"):
        TimmConfig(model="resnet81").build()


def test_volumes_are_refused():
    with pytest.raises(ConfigError, match="supports 2D images, found 3D"):
        TimmConfig(ndim=3).build()


@torch.no_grad()
def test_a_network_of_fixed_size_refuses_other_sizes_and_accepts_its_own():
    with pytest.raises(DataError, match=r"does not accept images of \(64, 64\) pixels .*set backbone.image_size"):
        TimmConfig(model="maxvit_nano_rw_256").build().eval()(noise(1))
    assert TimmConfig(model="maxvit_nano_rw_256", image_size=64).build().eval()(noise(1)).grid == (2, 2)


def test_a_size_for_a_network_of_any_size_is_refused():
    with pytest.raises(ConfigError, match=r"leave backbone\.image_size unset"):
        TimmConfig(image_size=64).build()


NEEDS_BLOCKS = ("adalora", "adaptformer", "block_expansion", "dora", "explora", "ia3", "last_blocks", "lora", "rslora")


@pytest.mark.parametrize("way", [*NEEDS_BLOCKS, "selective_lora", "vera", "vpt"])
def test_methods_for_transformer_blocks_are_refused(way, images, tmp_path):
    with pytest.raises(ConfigError, match=f"peft={way} needs transformer blocks.*choose peft=full, frozen or bitfit"):
        finetune(**options(images, tmp_path / "run", peft={"name": way}))


@pytest.mark.parametrize("key", ["layer_decay", "patch_embed_scale"])
def test_rates_by_block_are_refused(key, images, tmp_path):
    with pytest.raises(ConfigError, match=rf"found optim.{key}=0.5, which sets rates by transformer block"):
        finetune(**options(images, tmp_path / "run", optim={key: 0.5}))


@pytest.mark.parametrize("objective", ["mae", "lejepa", "dinov2", "simmim"])
def test_pretraining_is_refused(objective, images, tmp_path):
    with pytest.raises(ConfigError, match="pretraining needs the tokens of a vision transformer"):
        pretrain(**options(images, tmp_path / "run", objective={"name": objective}))
