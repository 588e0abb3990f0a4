"""Methods that add modules or tokens to the backbone: AdaptFormer and visual prompt tuning."""

import pytest
import torch
from torch.nn.functional import linear

from medvit.artifacts import Checkpoint
from medvit.backbones.vit import VitConfig
from medvit.errors import CheckpointError, ConfigError
from medvit.models.image import Model, ModelConfig
from medvit.models.interchange import to_timm
from medvit.peft.adaptformer import AdaptformerConfig
from medvit.peft.block_expansion import BlockExpansionConfig
from medvit.peft.vpt import VptConfig
from tests.peft.small import moved

PIXELS = torch.randn(2, 1, 16, 24, generator=torch.Generator().manual_seed(1))
WIDTH, DEPTH, NUM_PATCHES = 32, 3, 6
EVERY = pytest.mark.parametrize(
    "way", [AdaptformerConfig(), VptConfig(depth="shallow"), VptConfig(depth="deep")], ids=str
)


def config(**options) -> VitConfig:
    shared = {"ndim": 2, "channels": 1, "patch_size": 8, "width": WIDTH, "depth": DEPTH, "heads": 2}
    return VitConfig(**shared | options)


def backbone(**options):
    torch.manual_seed(0)
    return config(**options).build().eval()


@pytest.mark.parametrize("hidden", [8, 64])
def test_adaptformer_has_the_published_number_of_parameters(hidden):
    peft = AdaptformerConfig(hidden=hidden).adapt(backbone())
    trained = sum(weight.numel() for weight in peft.backbone.parameters() if weight.requires_grad)
    assert trained == DEPTH * (2 * WIDTH * hidden + WIDTH + hidden)


@pytest.mark.parametrize("options", [{}, {"layer_scale": 0.3}, {"positions": "rope", "layer_scale": 0.3}], ids=str)
def test_the_bottleneck_reads_the_residual_stream_and_its_output_is_added(options):
    """x + MLP(LN x) + s up(ReLU(down x)), with x after attention."""
    plain, peft = backbone(**options), moved(AdaptformerConfig(hidden=8, scale=0.5).adapt(backbone(**options)), by=0.3)
    block, adapter = peft.backbone.blocks[0], peft.backbone.blocks[0].adapter
    tokens = torch.randn(2, NUM_PATCHES + 1, WIDTH, generator=torch.Generator().manual_seed(2))
    streams = []
    hook = plain.blocks[0].norm2.register_forward_pre_hook(lambda _, inputs: streams.append(inputs[0]))
    expected = plain.blocks[0](tokens)
    hook.remove()
    hidden = linear(streams[0], adapter.down.weight, adapter.down.bias).relu()
    expected = expected + 0.5 * linear(hidden, adapter.up.weight, adapter.up.bias)
    torch.testing.assert_close(block(tokens), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("depth", ["shallow", "deep"])
@pytest.mark.parametrize("options", [{}, {"registers": 2}, {"class_token": False}, {"positions": "rope"}], ids=str)
def test_prompts_lie_between_the_other_prefix_tokens_and_the_patches(depth, options):
    model = backbone(**options)
    num_prefix = model.num_prefix_tokens
    tokens = VptConfig(num_prompts=4, depth=depth).adapt(model).backbone(PIXELS)
    assert (tokens.prefix.shape[1], tokens.patches.shape[1]) == (num_prefix + 4, NUM_PATCHES)
    assert model.num_prefix_tokens == num_prefix + 4


def test_outputs_of_deep_prompts_do_not_reach_the_next_block():
    peft = moved(VptConfig(num_prompts=4).adapt(backbone()), by=0.3)
    seen = []
    for block in peft.backbone.blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, 1:5]))
    peft.backbone(PIXELS)
    for tokens, prompts in zip(seen, peft.backbone.prompts, strict=True):
        assert torch.equal(tokens, prompts.expand(2, -1, -1))


def test_outputs_of_shallow_prompts_reach_the_next_block():
    peft = VptConfig(num_prompts=4, depth="shallow").adapt(backbone())
    seen = []
    peft.backbone.blocks[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, 1:5]))
    peft.backbone(PIXELS)
    assert (seen[0] - peft.backbone.prompts).abs().max() > 1e-3


def test_prompts_start_uniform_within_the_published_bound():
    prompts = VptConfig(num_prompts=100).adapt(backbone()).backbone.prompts
    bound = (6 / (8 * 8 + WIDTH)) ** 0.5
    assert 0.99 * bound < float(prompts.detach().abs().max()) <= bound


def test_the_frozen_backbone_has_no_gradients_and_runs_without_drop_path(caplog):
    peft = VptConfig(num_prompts=4).adapt(backbone(drop_path=0.5))
    assert "backbone.drop_path is ignored" in caplog.text
    first, second = (peft.backbone.train()(PIXELS).patches for _ in range(2))
    assert torch.equal(first, second)
    first.square().sum().backward()
    assert {name for name, weight in peft.backbone.named_parameters() if weight.grad is not None} == {"prompts"}


@EVERY
def test_a_checkpoint_of_a_model_is_restored_with_what_was_added(way, tmp_path):
    described = {"kind": "classification", "backbone": config(), "peft": way, "head": "linear", "classes": ["a", "b"]}
    torch.manual_seed(0)
    model = Model(ModelConfig.parse(described), config().build()).eval()
    moved(model.peft, by=0.3)
    expected = model(PIXELS)
    tree, adapter = model.config.tree(), model.stored_adapter()
    made = Checkpoint(tmp_path / "model", tree, {"kind": "image"}, model.merged_state(), adapter).save()
    restored = Model.from_checkpoint(Checkpoint.load(made.folder))
    torch.testing.assert_close(restored(PIXELS), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("way", "added"),
    [(AdaptformerConfig(), "bottlenecks beside the MLP"), (VptConfig(), "prompts of each block")],
    ids=str,
)
def test_additions_that_timm_does_not_have_are_refused(way, added, tmp_path):
    peft = way.adapt(backbone())
    model = {"kind": "backbone", "backbone": peft.described(config()).tree(), "peft": way.tree()}
    made = Checkpoint(tmp_path / "model", model, {"kind": "image", "size": [16, 24]}, peft.merge().state_dict()).save()
    with pytest.raises(CheckpointError, match=f"the backbone has {added}"):
        to_timm(made, tmp_path / "timm")


def test_shallow_prompts_are_registers_for_timm(tmp_path):
    peft = moved(VptConfig(num_prompts=4, depth="shallow").adapt(backbone()), by=0.3)
    model = {"kind": "backbone", "backbone": peft.described(config()).tree(), "peft": VptConfig().tree()}
    made = Checkpoint(tmp_path / "model", model, {"kind": "image", "size": [16, 24]}, peft.merge().state_dict()).save()
    assert (to_timm(made, tmp_path / "timm") / "model.safetensors").is_file()  # with equal features, or refused


def test_a_second_addition_is_refused():
    with pytest.raises(ConfigError, match="the backbone has bottlenecks of an earlier peft=adaptformer"):
        AdaptformerConfig().adapt(backbone(adapter_width=8))
    with pytest.raises(ConfigError, match="the backbone has prompts of an earlier peft=vpt"):
        VptConfig().adapt(backbone(deep_prompts=2))
    with pytest.raises(ConfigError, match="cannot add blocks to a backbone with prompts of each block"):
        BlockExpansionConfig().adapt(backbone(deep_prompts=2))


def test_blocks_added_beside_bottlenecks_change_nothing_at_first():
    model = backbone(adapter_width=8)
    with torch.no_grad():
        for block in model.blocks:
            block.adapter.up.weight.normal_()
    expected = model(PIXELS).patches
    assert torch.equal(BlockExpansionConfig(num_blocks=3).adapt(model).backbone(PIXELS).patches, expected)
