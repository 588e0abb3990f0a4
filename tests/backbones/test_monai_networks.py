"""Networks of MONAI as backbones: features and logits of MONAI itself, weights files, and refusals."""

import pytest
import torch
from monai.networks.nets import SegResNet, SwinUNETR
from monai.networks.nets.resnet import ResNetFeatures
from safetensors.torch import save_file

from medvit.backbones.monai_network import MonaiConfig
from medvit.backbones.timm_network import TimmConfig
from medvit.backbones.vit import VitConfig
from medvit.errors import CheckpointError, ConfigError, DataError
from medvit.heads.own import OwnConfig
from medvit.models.image import Model, ModelConfig

NETWORKS = {"resnet10": None, "swin_unetr": 12, "segresnet": 8}
WITH_DECODER = ("swin_unetr", "segresnet")


def noise(ndim: int, side: int = 32) -> torch.Tensor:
    return torch.randn(1, 1, 2 * side, *[side] * (ndim - 1), generator=torch.Generator().manual_seed(0))


def config(model: str, ndim: int = 2, **more) -> MonaiConfig:
    return MonaiConfig(model=model, ndim=ndim, **{"channels": 1, "feature_size": NETWORKS[model]} | more)


def of_monai(model: str, ndim: int, num_classes: int = 3) -> torch.nn.Module:
    torch.manual_seed(0)
    if model == "swin_unetr":
        return SwinUNETR(1, num_classes, feature_size=12, spatial_dims=ndim).eval()
    if model == "segresnet":
        return SegResNet(spatial_dims=ndim, init_filters=8, in_channels=1, out_channels=num_classes).eval()
    return ResNetFeatures(model, pretrained=False, spatial_dims=ndim).eval()


def of_task(kind: str, head: dict, model: str = "segresnet", ndim: int = 2, **more) -> Model:
    backbone = {"name": "monai", "model": model, "channels": 1, "ndim": ndim, "feature_size": NETWORKS[model]}
    tree = {"kind": kind, "backbone": backbone | more, "peft": {"name": "full"}, "head": head}
    described = ModelConfig.parse(tree | {"classes": ["a", "b", "c"]})
    return Model(described, described.backbone.build())


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("model", NETWORKS)
@torch.no_grad()
def test_features_are_those_of_monai_with_the_same_weights(model, ndim, tmp_path):
    network, pixels = of_monai(model, ndim), noise(ndim)
    save_file(network.state_dict(), tmp_path / "monai.safetensors")
    backbone = config(model, ndim, weights=str(tmp_path / "monai.safetensors")).build().eval()
    expected = {
        "resnet10": lambda: network(pixels),
        "swin_unetr": lambda: network.swinViT(pixels, network.normalize),
        "segresnet": lambda: network.encode(pixels)[1],
    }[model]()
    levels = backbone.intermediate(pixels, range(backbone.depth))
    assert all(torch.equal(t.patches, e.flatten(2).mT) for t, e in zip(levels, expected, strict=True))
    for layer, tokens in enumerate(levels):
        assert tokens.patches.shape[2] == backbone.width_of(layer)
        steps = zip(pixels.shape[2:], backbone.stride_of(layer), strict=True)
        assert tokens.grid == tuple(side // stride for side, stride in steps)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("model", WITH_DECODER)
@torch.no_grad()
def test_encoder_and_own_decoder_are_the_whole_network(model, ndim, tmp_path):
    network, pixels = of_monai(model, ndim), noise(ndim)
    save_file(network.state_dict(), tmp_path / "monai.safetensors")
    task = of_task("segmentation", {"name": "own"}, model, ndim, weights=str(tmp_path / "monai.safetensors")).eval()
    num_weights = sum(weight.numel() for weight in task.parameters())
    assert num_weights == sum(weight.numel() for weight in network.parameters())
    task.head.decoder = type(task.head.decoder)(network)
    torch.testing.assert_close(task(pixels), network(pixels), rtol=0, atol=1e-5)  # float32, in units of a logit


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("head", ["dense", "linear"])
def test_heads_of_transformers_read_an_encoder(head, ndim):
    kind = "segmentation" if head == "dense" else "classification"
    model = of_task(kind, {"name": head}, "resnet10", ndim).eval()
    pixels = noise(ndim, side=20)
    logits = model(pixels)
    logits.sum().backward()
    assert logits.shape == ((1, 3, *pixels.shape[2:]) if head == "dense" else (1, 3))
    assert all(weight.grad is not None for weight in model.parameters())


@torch.no_grad()
def test_names_of_parallel_and_self_supervised_weights_are_read(tmp_path):
    encoder = config("swin_unetr").build().network
    state = {f"module.{name.replace('.linear', '.fc')}": weight for name, weight in encoder.state_dict().items()}
    torch.save({"state_dict": state | {"module.rotation_head.weight": torch.zeros(4, 8)}}, tmp_path / "ssl.pt")
    loaded = config("swin_unetr", weights=str(tmp_path / "ssl.pt")).build()
    assert all(torch.equal(loaded.network.state_dict()[name], weight) for name, weight in encoder.state_dict().items())
    assert loaded.fit.unexpected == ("rotation_head.weight",)


def test_weights_of_a_deeper_network_are_refused(tmp_path):
    save_file(of_monai("resnet18", 2).state_dict(), tmp_path / "resnet18.safetensors")
    with pytest.raises(CheckpointError, match=r"weights do not fit, first layer1\.1.*; set backbone\.model"):
        config("resnet10", weights=str(tmp_path / "resnet18.safetensors")).build()


def test_nothing_is_downloaded():
    with pytest.raises(CheckpointError, match="downloads nothing: give a local file with the names of MONAI"):
        config("resnet10", weights="hub:resnet18").build()


@pytest.mark.parametrize("backbone", [MonaiConfig(ndim=2), TimmConfig(), VitConfig(size="micro", ndim=2, channels=1)])
def test_a_decoder_is_refused_where_there_is_none(backbone):
    with pytest.raises(ConfigError, match=r"head=own needs a network with a decoder of its own.*dynunet"):
        OwnConfig().build(backbone.build(), 2)


def test_lower_resolutions_are_refused_where_there_are_none():
    with pytest.raises(ConfigError, match=r"num_supervised=1 needs backbone\.name=dynunet"):
        OwnConfig(num_supervised=1).build(config("segresnet").build(), 2)


@pytest.mark.parametrize(("model", "size"), [("swin_unetr", 16), ("segresnet", 12), ("resnet18", 64)])
def test_unsupported_widths_are_refused(model, size):
    with pytest.raises(ConfigError, match=r"backbone\.feature_size"):
        MonaiConfig(model=model, feature_size=size).build()


def test_a_crop_of_one_cell_is_refused():
    model = of_task("segmentation", {"name": "own"}, "swin_unetr").eval()
    with pytest.raises(DataError, match=r"\(32, 32\) pixels are a single cell.*at least one side is twice as long"):
        model(noise(2, side=16))
