"""The transformer equals timm's for the same weights, and keeps its own contracts."""

import pytest
import timm
import torch

from medvit.backbones.position_embeddings import rotations
from medvit.backbones.vit import VitConfig
from medvit.errors import ConfigError, DataError
from medvit.weights import load_weights

TINY = {"width": 192, "depth": 2, "heads": 3}
SHALLOW = {"depth": 2, "embed_dim": 192, "num_heads": 3}


def small(ndim=2, **options):
    torch.manual_seed(0)
    return VitConfig(ndim=ndim, channels=1, patch_size=8, width=48, depth=2, heads=2, **options).build().eval()


def make_blocks_count(model):
    """Random biases, and layer scales at 0.5: at the initial 1e-5, the error of a wrong block would be below the
    tolerance."""
    for name, weight in model.named_parameters():
        if name.endswith((".gamma", "gamma_1", "gamma_2")):
            torch.nn.init.constant_(weight, 0.5)
        elif name.endswith("bias"):
            torch.nn.init.normal_(weight, std=0.1)


@pytest.mark.parametrize(
    ("name", "options", "side", "native"),
    [
        ("vit_small_patch16_224", {"patch_size": 16}, 224, 224),
        ("vit_small_patch16_224", {"patch_size": 16}, 160, 224),
        ("vit_small_patch14_dinov2", {"patch_size": 14, "image_size": 518, "layer_scale": 1e-5}, 126, 518),
        (
            "vit_small_patch14_reg4_dinov2",
            {"patch_size": 14, "image_size": 518, "layer_scale": 1e-5, "registers": 4},
            126,
            518,
        ),
    ],
)
def test_features_equal_those_of_timm_for_the_same_weights(name, options, side, native):
    torch.manual_seed(0)
    theirs = timm.create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True, **SHALLOW).eval()
    torch.nn.init.normal_(theirs.pos_embed, std=0.5)
    make_blocks_count(theirs)
    ours = VitConfig(ndim=2, channels=3, positions="learned", **TINY, **options).build().eval()
    fit = load_weights(ours, theirs.state_dict(), grid=ours.grid, source=name)
    assert fit.missing == ()
    pixels = torch.randn(2, 3, side, side)
    tokens = ours(pixels)
    joined = torch.cat([tokens.prefix, tokens.patches], dim=1)
    torch.testing.assert_close(joined, theirs.forward_features(pixels), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(96, 96), (64, 128)])
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("vit_small_patch16_dinov3", {"qkv_bias": False}),
        ("vit_small_patch16_dinov3_qkvb", {}),
        ("vit_small_plus_patch16_dinov3", {"qkv_bias": False, "mlp": "swiglu"}),
    ],
)
def test_features_equal_those_of_dinov3_in_timm(name, more, shape):
    torch.manual_seed(0)
    theirs = timm.create_model(name, pretrained=False, num_classes=0, **SHALLOW).eval()
    options = {"positions": "rope", "registers": 4, "layer_scale": 1e-5, "norm_epsilon": 1e-5} | more
    ours = VitConfig(ndim=2, channels=3, patch_size=16, **TINY, **options).build().eval()
    make_blocks_count(theirs)
    assert load_weights(ours, theirs.state_dict(), grid=ours.grid, source="dinov3").missing == ()
    pixels = torch.randn(1, 3, *shape)
    tokens = ours(pixels)
    joined = torch.cat([tokens.prefix, tokens.patches], dim=1)
    torch.testing.assert_close(joined, theirs.forward_features(pixels), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("positions", ["sincos", "learned", "rope"])
def test_encoding_all_embedded_patches_is_the_forward_pass(ndim, positions):
    backbone = small(ndim, positions=positions, image_size=16, registers=2)
    pixels = torch.randn(2, 1, *(16, 24, 8)[:ndim])
    patches, grid = backbone.embed(pixels)
    tokens = backbone(pixels)
    expected = torch.cat([tokens.prefix, tokens.patches], dim=1)
    ids = torch.arange(patches.shape[1]).expand(2, -1)
    assert tokens.grid == grid
    torch.testing.assert_close(backbone.encode(patches, grid=grid), expected)
    torch.testing.assert_close(backbone.encode(patches, grid=grid, ids=ids), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("positions", ["sincos", "rope"])
def test_encoding_does_not_depend_on_the_order_of_the_patches(positions):
    backbone = small(positions=positions)
    patches, grid = backbone.embed(torch.randn(1, 1, 32, 32))
    ids = torch.randperm(patches.shape[1])[None, :7]
    seen = patches.gather(1, ids[..., None].expand(-1, -1, patches.shape[-1]))
    one = backbone.encode(seen, grid=grid, ids=ids)
    other = backbone.encode(seen.flip(1), grid=grid, ids=ids.flip(1))
    torch.testing.assert_close(one[:, 1:], other[:, 1:].flip(1), atol=1e-6, rtol=1e-5)


def test_rotations_in_3d_tell_every_patch_apart_and_leave_the_rest_of_the_head_alone():
    rope = rotations((3, 4, 5), head_width=64)
    assert rope.shape == (60, 128)
    assert len(torch.unique(rope, dim=0)) == 60
    sines = rope[:, :32]
    assert (sines[:, 30:] == 0).all()
    assert (sines[:, :30].abs().amax(dim=0) > 0).all()


def test_intermediate_gives_the_asked_depths_in_the_asked_order():
    backbone = small()
    pixels = torch.randn(1, 1, 16, 16)
    last, first = backbone.intermediate(pixels, [1, 0])
    assert torch.equal(last.patches, backbone(pixels).patches)
    assert not torch.equal(first.patches, last.patches)


def test_saving_memory_changes_no_gradient():
    pixels = torch.randn(1, 1, 16, 16)
    gradients = []
    for save_memory in (False, True):
        backbone = small(save_memory=save_memory).train()
        backbone(pixels).patches.sum().backward()
        gradients.append(backbone.patch_embed["proj"].weight.grad)
    torch.testing.assert_close(*gradients)


def test_a_side_that_is_not_whole_patches_is_refused():
    with pytest.raises(DataError, match=r"shape \(16, 20\); each side must be a multiple of the patch size \(8, 8\)"):
        small()(torch.randn(1, 1, 16, 20))


@pytest.mark.parametrize(("shape", "channels"), [((16, 16, 16), 1), ((16, 16), 3)])
def test_pixels_of_another_rank_or_number_of_channels_are_refused(shape, channels):
    with pytest.raises(DataError, match=rf"with {channels} channels; the backbone expects 2D images with 1"):
        small()(torch.randn(1, channels, *shape))


def test_a_patch_may_differ_by_axis():
    backbone = VitConfig(ndim=3, channels=1, patch_size=(8, 8, 2), width=48, depth=2, heads=2).build()
    assert backbone(torch.randn(1, 1, 16, 24, 8)).grid == (2, 3, 4)


def test_sides_that_are_not_one_for_each_axis_are_refused():
    with pytest.raises(ConfigError, match=r"found backbone.patch_size=\(8, 8\); expected one positive side, or 3"):
        VitConfig(ndim=3, patch_size=(8, 8)).build()


def test_an_image_smaller_than_a_patch_defines_no_positions():
    with pytest.raises(ConfigError, match=r"image_size \(8, 8\) is smaller than one patch \(16, 16\)"):
        VitConfig(ndim=2, positions="learned", image_size=8).build()


def test_a_head_too_narrow_to_turn_along_three_axes_is_refused():
    with pytest.raises(ConfigError, match=r"backbone\.heads is 4, expected an even number of at least 6"):
        VitConfig(ndim=3, positions="rope", width=8, heads=2).build()


@pytest.mark.parametrize("positions", ["sincos", "rope"])
def test_a_gated_mlp_takes_any_width(positions):
    backbone = VitConfig(ndim=2, channels=1, width=100, depth=1, heads=2, mlp="swiglu", positions=positions).build()
    assert backbone(torch.randn(1, 1, 16, 16)).patches.shape == (1, 1, 100)


def test_features_equal_those_of_dinov2_with_a_gated_mlp_in_timm():
    torch.manual_seed(0)
    name, options = "vit_giant_patch14_dinov2", {"patch_size": 14, "image_size": 518, "layer_scale": 1e-5}
    theirs = timm.create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True, **SHALLOW).eval()
    make_blocks_count(theirs)
    ours = VitConfig(ndim=2, channels=3, positions="learned", mlp="swiglu", **TINY, **options).build().eval()
    assert load_weights(ours, theirs.state_dict(), grid=ours.grid, source=name).missing == ()
    pixels = torch.randn(1, 3, 56, 56)
    tokens = ours(pixels)
    joined = torch.cat([tokens.prefix, tokens.patches], dim=1)
    torch.testing.assert_close(joined, theirs.forward_features(pixels), atol=1e-5, rtol=1e-4)


def test_a_width_that_the_heads_cannot_share_is_refused():
    with pytest.raises(ConfigError, match=r"width 50 is not a multiple of backbone\.heads 4"):
        VitConfig(width=50, heads=4).build()


@pytest.mark.parametrize("place", [{"device": "meta"}, {"dtype": torch.float64}], ids=str)
def test_added_weights_are_where_the_others_are_and_of_their_type(place):
    model = small().to(**place)
    model.add_prompts(3, num_blocks=2)
    model.add_adapters(4)
    for part in (model, model.of_other_rank((8, 8, 8), 1)):
        kinds = {(weight.device, weight.dtype) for weight in part.parameters()}
        assert kinds == {(model.norm.weight.device, model.norm.weight.dtype)}
