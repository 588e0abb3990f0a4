"""DynUNet: the plan of nnU-Net, the network of MONAI, deep supervision, checkpoints and sliding windows."""

from dataclasses import replace

import pytest
import torch
from monai.networks.nets import DynUNet
from torch.nn import functional as F

from medvit.artifacts import Checkpoint
from medvit.backbones.dynunet import DynUNetConfig, plan_unet
from medvit.dataset.manifest import Manifest
from medvit.errors import CheckpointError, ConfigError, DataError
from medvit.heads.own import OwnConfig
from medvit.models.image import Model
from medvit.training.initialization import start_from
from medvit.transforms.preprocess import Preprocess
from pipelines.finetune import finetune
from tests.training.conftest import dataset

STRIDES = ((1, 1, 1), (2, 2, 1), (2, 2, 2))
KERNELS = ((3, 3, 1), (3, 3, 3), (3, 3, 3))
SMALL = {"strides": STRIDES, "kernel_sizes": KERNELS, "widths": (4, 8, 12), "ndim": 3, "channels": 1}


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(0))


def of_monai(num_classes: int = 3, **more) -> DynUNet:
    torch.manual_seed(0)
    options = {"kernel_size": KERNELS, "strides": STRIDES, "upsample_kernel_size": STRIDES[1:], "filters": (4, 8, 12)}
    return DynUNet(3, 1, num_classes, **options | more)


@pytest.mark.parametrize(
    ("crop", "spacing", "strides", "kernels"),
    [
        # Reference: get_pool_and_conv_props of nnU-Net v2, with sides of at least 4 cells.
        ((128, 128, 128), (1.0, 1.0, 1.0), [(1, 1, 1)] + 5 * [(2, 2, 2)], 6 * [(3, 3, 3)]),
        (
            (40, 56, 40),
            (1.0, 1.0, 1.0),
            [(1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)],
            4 * [(3, 3, 3)],
        ),
        (
            (256, 256, 16),
            (0.7, 0.7, 5.0),
            [(1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2), (2, 2, 1), (2, 2, 1)],
            [(3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)],
        ),
        ((512, 512), (1.0, 1.0), [(1, 1)] + 7 * [(2, 2)], 8 * [(3, 3)]),
    ],
)
def test_levels_follow_crop_and_spacing_as_in_nnunet(crop, spacing, strides, kernels):
    plan = plan_unet(crop, spacing)
    assert list(plan.strides) == strides
    assert list(plan.kernel_sizes) == kernels


def test_the_plan_follows_the_spacing_after_preprocessing(tmp_path):
    manifest = Manifest.read(dataset(tmp_path / "volumes", ndim=3))
    thick = [replace(row, spacing_mm=(1.0, 1.0, 4.0), affine=None) for row in manifest]
    manifest = replace(manifest, rows=tuple(thick))
    stored = start_from(None, DynUNetConfig(), Preprocess(), manifest, crop=(32, 32, 32))
    resized = start_from(None, DynUNetConfig(), Preprocess(size=(16, 16, 64)), manifest)
    assert stored.config.strides[:3] == ((1, 1, 1), (2, 2, 1), (2, 2, 1))
    assert resized.config.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (1, 1, 2))
    with pytest.raises(ConfigError, match="crop has 2 numbers; the images of this model have 3 axes"):
        start_from(None, DynUNetConfig(), Preprocess(), manifest, crop=(32, 32))


def test_given_strides_and_kernel_sizes_replace_the_plan():
    planned = DynUNetConfig(strides=STRIDES).planned((96, 96, 96), (1.0, 1.0, 1.0))
    assert planned.strides == STRIDES
    assert planned.kernel_sizes == 3 * ((3, 3, 3),)
    assert DynUNetConfig(**SMALL).planned((96, 96, 96), (1.0, 1.0, 1.0)) == DynUNetConfig(**SMALL)


def test_a_crop_too_small_for_three_levels_is_refused():
    with pytest.raises(ConfigError, match=r"needs 3 levels, and a crop of \(8, 8\) has 2; set a larger crop"):
        DynUNetConfig().planned((8, 8), (1.0, 1.0))


@pytest.mark.parametrize("residual", [False, True])
@torch.no_grad()
def test_encoder_and_own_decoder_are_the_whole_network(residual, tmp_path):
    network, pixels = of_monai(res_block=residual).eval(), noise(16, 16, 8)
    torch.save(network.state_dict(), tmp_path / "monai.pt")
    config = DynUNetConfig(**SMALL, residual=residual, weights=str(tmp_path / "monai.pt"))
    backbone = config.build().eval()
    head = OwnConfig().build(backbone, 3)
    sizes = [sum(weight.numel() for weight in part.parameters()) for part in (backbone, head, network)]
    assert sizes[0] + sizes[1] == sizes[2]
    own = {name: weight for name, weight in network.state_dict().items() if name in head.decoder.state_dict()}
    head.decoder.load_state_dict(own)
    logits = head.eval()(backbone.intermediate(pixels, head.layers), pixels)
    torch.testing.assert_close(logits, network(pixels), rtol=0, atol=1e-5)  # float32, in units of a logit


def test_layers_have_the_declared_width_and_stride():
    backbone = DynUNetConfig(**SMALL).build()
    levels = backbone.intermediate(noise(16, 16, 8), range(backbone.depth))
    assert [tokens.grid for tokens in levels] == [(16, 16, 8), (8, 8, 8), (4, 4, 4)]
    assert [tokens.patches.shape[2] for tokens in levels] == [backbone.width_of(layer) for layer in range(3)]
    assert backbone.patch_size == (4, 4, 2)


def test_deep_supervision_gives_the_outputs_of_monai():
    network, pixels = of_monai(deep_supervision=True, deep_supr_num=1), noise(16, 16, 8)
    backbone = DynUNetConfig(**SMALL).build()
    head = OwnConfig(num_supervised=1).build(backbone, 3)
    for part in (backbone.network, head.decoder):
        part.load_state_dict({name: network.state_dict()[name] for name in part.state_dict()})
    logits, lower = head.at_levels(backbone.intermediate(pixels, head.layers), pixels)
    expected, resized = network(pixels).unbind(dim=1)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)  # float32, in units of a logit
    torch.testing.assert_close(F.interpolate(lower, size=logits.shape[2:]), resized, rtol=0, atol=1e-5)
    assert torch.equal(head(backbone.intermediate(pixels, head.layers), pixels), logits)
    with pytest.raises(ConfigError, match=r"num_supervised=2 is more than the 1 lower resolutions"):
        OwnConfig(num_supervised=2).build(backbone, 3)


def test_weights_of_another_plan_are_refused(tmp_path):
    torch.save(of_monai(filters=(4, 8, 16)).state_dict(), tmp_path / "monai.pt")
    with pytest.raises(CheckpointError, match=r"first bottleneck.*; set backbone\.strides, kernel_sizes, widths"):
        DynUNetConfig(**SMALL, weights=str(tmp_path / "monai.pt")).build()


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ({"widths": (4, 8)}, "found 3 strides, 3 kernel_sizes, 2 widths"),
        ({"strides": ((2, 2, 2), *STRIDES[1:])}, "the first stride must be 1"),
        ({"ndim": 2}, "need 2 numbers a level"),
    ],
)
def test_plans_that_do_not_fit_together_are_refused(more, found):
    with pytest.raises(ConfigError, match=found):
        DynUNetConfig(**SMALL | more).build()


def test_a_crop_of_one_cell_is_refused():
    with pytest.raises(DataError, match=r"\(4, 4, 2\) pixels are a single cell.*at least one side is twice as long"):
        DynUNetConfig(**SMALL).build()(noise(4, 4, 2))


def test_a_fine_tuned_network_is_restored_and_predicts_by_sliding_window(tmp_path):
    checkpoint = finetune(
        dataset=dataset(tmp_path / "volumes", ndim=3),
        output=tmp_path / "run",
        tracking={"enabled": False},
        backbone={"name": "dynunet", "widths": [4, 8, 12]},
        head={"name": "own", "num_supervised": 1},
        crop=[16, 16, 8],
        trainer={"epochs": 2, "steps_per_epoch": 2, "precision": "32-true"},
        loader={"batch_size": 2},
    )
    assert checkpoint.model["backbone"]["strides"] == [[1, 1, 1], [2, 2, 2], [2, 2, 1]]
    assert checkpoint.model["peft"]["name"] == "full"
    model, again = (Model.from_checkpoint(each) for each in (checkpoint, Checkpoint.load(tmp_path / "run")))
    volume = noise(20, 16, 14)
    assert model.predict(volume).shape == (1, 2, 20, 16, 14)
    assert torch.equal(model.predict(volume), again.predict(volume))
