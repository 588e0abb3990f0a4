"""Public weights: other layouts by name, other shapes by law, without running or downloading code."""

import pickle
import socket

import pytest
import torch
import yaml
from safetensors.torch import save_file

from medvit.backbones.vit import VitConfig
from medvit.errors import CheckpointError
from medvit.weights import adapt_patch_embedding, adapt_positions, load_weights, read_weights

LAYOUT = {"ndim": 2, "channels": 3, "patch_size": 8, "width": 48, "depth": 4, "heads": 2, "image_size": 32}


def build(**options):
    torch.manual_seed(0)
    return VitConfig(**LAYOUT | options).build().eval()


def features(model, pixels):
    tokens = model(pixels)
    return torch.cat([tokens.prefix, tokens.patches], dim=1)


def official_dinov2(model) -> dict:
    """The same weights under the names of the DINOv2 code: chunked blocks, registers, positions with the class."""
    state = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("blocks."):
            number = int(name.split(".")[1])
            name = f"blocks.{number // 2}.{name.removeprefix('blocks.')}"
        state[name.replace("reg_token", "register_tokens")] = tensor
    state["pos_embed"] = torch.cat([torch.full((1, 1, 48), 0.25), state["pos_embed"]], dim=1)
    state["cls_token"] = state["cls_token"] - 0.25
    return state | {"mask_token": torch.zeros(1, 48)}


def official_mae(model) -> dict:
    blocks = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("blocks.")}
    rest = {name: tensor for name, tensor in official_dinov2(model).items() if not name.startswith("blocks.")}
    decoder = {"decoder_embed.weight": torch.zeros(8, 48), "decoder_blocks.0.norm1.weight": torch.zeros(8)}
    return rest | blocks | decoder


def official_dinov3(model) -> dict:
    state = {}
    for name, tensor in model.state_dict().items():
        name = (
            name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma").replace("reg_token", "storage_tokens")
        )
        state[name] = tensor
    for number in range(4):
        state[f"blocks.{number}.attn.qkv.bias"] = torch.zeros(144)
        state[f"blocks.{number}.attn.qkv.bias_mask"] = torch.zeros(144)
    return state | {"rope_embed.periods": torch.zeros(6), "mask_token": torch.zeros(1, 48)}


@pytest.mark.parametrize(
    ("layout", "options"),
    [
        (official_dinov2, {"positions": "learned", "registers": 4, "layer_scale": 1e-5}),
        (official_mae, {"positions": "learned"}),
        (official_dinov3, {"positions": "rope", "registers": 4, "layer_scale": 1e-5, "qkv_bias": False}),
    ],
)
@pytest.mark.parametrize("wrapper", [None, "teacher", "model"])
def test_official_layouts_load_whole_and_give_the_same_features(layout, options, wrapper, tmp_path):
    model = build(**options)
    state = layout(model)
    if wrapper:
        prefix = "backbone." if wrapper == "teacher" else ""
        state = {wrapper: {prefix + name: tensor for name, tensor in state.items()}, "epoch": 3}
    torch.save(state, tmp_path / "weights.pth")
    loaded = build(**options, weights=str(tmp_path / "weights.pth"))
    assert loaded.fit.missing == ()
    assert loaded.fit.unexpected == ()
    pixels = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(features(loaded, pixels), features(model, pixels), atol=1e-5, rtol=1e-4)


def test_a_gray_image_gives_one_channel_what_its_copies_gave_three():
    kernel = torch.randn(5, 3, 4, 4)
    gray = torch.randn(1, 1, 4, 4)
    one = adapt_patch_embedding(kernel, (5, 1, 4, 4))
    token = torch.nn.functional.conv2d(gray.expand(1, 3, 4, 4), kernel)
    torch.testing.assert_close(torch.nn.functional.conv2d(gray, one), token, atol=1e-5, rtol=1e-4)


def test_a_volume_of_equal_slices_gives_what_one_slice_gave():
    kernel = torch.randn(5, 1, 4, 4)
    slice_ = torch.randn(1, 1, 4, 4)
    inflated = adapt_patch_embedding(kernel, (5, 1, 4, 4, 4))
    token = torch.nn.functional.conv2d(slice_, kernel)
    volume = slice_[..., None].expand(1, 1, 4, 4, 4)
    torch.testing.assert_close(torch.nn.functional.conv3d(volume, inflated)[..., 0], token, atol=1e-5, rtol=1e-4)


def test_a_larger_patch_keeps_the_token_of_an_enlarged_image():
    """FlexiViT's law: upsampling the patch and the kernel does not change the inner product."""
    kernel, patch = torch.randn(3, 1, 4, 4), torch.randn(1, 1, 4, 4)
    larger = adapt_patch_embedding(kernel, (3, 1, 8, 8))
    enlarged = torch.nn.functional.interpolate(patch, size=(8, 8), mode="bicubic", antialias=True)
    expected = torch.nn.functional.conv2d(patch, kernel)
    torch.testing.assert_close(torch.nn.functional.conv2d(enlarged, larger), expected, atol=1e-4, rtol=1e-3)


def test_2d_weights_start_a_3d_transformer():
    flat = build(positions="learned")
    solid = VitConfig(**LAYOUT | {"ndim": 3, "channels": 1, "positions": "learned"}).build()
    fit = load_weights(solid, flat.state_dict(), grid=solid.grid, source="flat")
    assert set(fit.adapted) == {"patch_embed.proj.weight", "pos_embed"}
    assert fit.missing == ()
    table = solid.pos_embed.reshape(4, 4, 4, 48)
    assert torch.equal(table[..., 0, :], table[..., 3, :])


def test_weights_of_another_width_are_refused_with_the_first_that_does_not_fit(tmp_path):
    save_file(build().state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"weights do not fit, first .*: found \(.*48.*\), need \(.*64.*\)"):
        VitConfig(**LAYOUT | {"width": 64, "weights": str(tmp_path / "w.safetensors")}).build()


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"model": Evil()}))
    with pytest.raises(CheckpointError, match=r"needs code to be run, which medvit never does"):
        read_weights(tmp_path / "evil.pth")


def test_a_missing_file_is_named_with_the_ways_to_go():
    with pytest.raises(CheckpointError, match=r"no weights at nowhere\.pth; give a local file, or hub:NAME"):
        build(weights="nowhere.pth")


def test_local_weights_load_with_the_network_shut(tmp_path, monkeypatch):
    def shut(*args, **kwargs):
        raise AssertionError("something opened a socket")

    save_file(build().state_dict(), tmp_path / "w.safetensors")
    monkeypatch.setattr(socket, "socket", shut)
    assert build(weights=str(tmp_path / "w.safetensors")).fit.missing == ()


def test_the_report_names_what_was_missing_and_what_was_not_expected():
    model = build()
    state = model.state_dict() | {"strange": torch.zeros(1)}
    del state["norm.bias"]
    report = str(load_weights(model, state, grid=model.grid, source="file"))
    assert "not in the file, randomly initialized: norm.bias" in report
    assert "in the file, not in the model: strange" in report


@pytest.mark.parametrize("order", [1, -1])
def test_of_a_teacher_and_its_student_the_teacher_is_taken(order):
    teacher = {f"teacher.backbone.{name}": tensor for name, tensor in build().state_dict().items()}
    student = {name.replace("teacher", "student"): torch.ones_like(tensor) for name, tensor in teacher.items()}
    both = dict([*teacher.items(), *student.items()][::order])
    model = build()
    load_weights(model, both, grid=model.grid, source="file")
    assert torch.equal(model.norm.bias, torch.zeros(48))


def test_2d_positions_are_not_taken_for_3d_ones_of_the_same_count():
    flat = build(positions="learned", image_size=64)
    solid = build(ndim=3, positions="learned")
    assert flat.pos_embed.shape == solid.pos_embed.shape
    load_weights(solid, flat.state_dict(), grid=solid.grid, source="flat")
    table = solid.pos_embed.reshape(4, 4, 4, 48)
    assert torch.equal(table[..., 0, :], table[..., 3, :])


def test_3d_positions_move_to_another_3d_grid_and_keep_their_mean_of_a_ramp():
    small, large = build(ndim=3, positions="learned", image_size=24), build(ndim=3, positions="learned")
    ramp = torch.arange(3.0).reshape(1, 3, 1, 1, 1).expand(1, 3, 3, 3, 48).reshape(1, 27, 48)
    fit = load_weights(large, small.state_dict() | {"pos_embed": ramp}, grid=large.grid, source="small")
    table = large.pos_embed.reshape(4, 4, 4, 48)
    assert fit.adapted == {"pos_embed": "grid (3, 3, 3) -> (4, 4, 4)"}
    assert (table.diff(dim=0) > 0).all()
    assert torch.equal(table[:, 0], table[:, 3])
    torch.testing.assert_close(table.mean(), torch.tensor(1.0), atol=1e-5, rtol=0)


def test_positions_of_registers_are_folded_into_the_registers():
    model = build(positions="learned", registers=4)
    state = model.state_dict()
    extra = torch.full((1, 5, 48), 0.25)
    moved = state | {"cls_token": state["cls_token"] - 0.25, "reg_token": state["reg_token"] - 0.25}
    moved["pos_embed"] = torch.cat([extra, state["pos_embed"]], dim=1)
    loaded = build(positions="learned", registers=4, image_size=48)
    load_weights(loaded, moved, grid=loaded.grid, source="file")
    torch.testing.assert_close(loaded.reg_token, model.reg_token)
    torch.testing.assert_close(loaded.cls_token, model.cls_token)


def test_positions_of_no_square_of_patches_are_refused():
    model = build(positions="learned")
    state = model.state_dict() | {"pos_embed": torch.zeros(1, 15, 48)}
    with pytest.raises(
        CheckpointError, match="the file has 15 learned positions, which do not form a square or cube of patches"
    ):
        load_weights(model, state, grid=model.grid, source="file")


def test_dinov3_biases_of_queries_and_values_load_and_that_of_keys_is_masked():
    options = {"positions": "rope", "registers": 4, "layer_scale": 1e-5}
    model = build(**options)
    state = official_dinov3(model)
    for number in range(4):
        state[f"blocks.{number}.attn.qkv.bias"] = torch.arange(144.0)
    fit = load_weights(model, state, grid=model.grid, source="dinov3")
    assert fit.missing == fit.unexpected == ()
    assert torch.equal(model.blocks[3].attn.q_bias, torch.arange(48.0))
    assert torch.equal(model.blocks[3].attn.v_bias, torch.arange(96.0, 144.0))


@pytest.mark.parametrize(
    ("theirs", "option"),
    [
        ({"layer_scale": 1e-5}, "backbone.layer_scale=1e-5"),
        ({"registers": 4}, "backbone.registers"),
        ({"positions": "learned"}, "backbone.positions=learned"),
        ({"positions": "rope", "layer_scale": 1e-5}, "backbone.positions=rope"),
        ({"depth": 6}, "backbone.depth"),
    ],
)
def test_weights_that_the_model_has_no_place_for_are_warned_of_with_the_option(theirs, option, tmp_path, caplog):
    save_file(build(**theirs).state_dict(), tmp_path / "w.safetensors")
    fit = build(weights=str(tmp_path / "w.safetensors")).fit
    assert option in " ".join(fit.advice)
    assert option in caplog.text
    assert len(fit.summary.splitlines()) == 1


def test_copies_of_one_channel_share_its_kernel():
    kernel, gray = torch.randn(5, 1, 4, 4), torch.randn(1, 1, 4, 4)
    three = adapt_patch_embedding(kernel, (5, 3, 4, 4))
    token = torch.nn.functional.conv2d(gray, kernel)
    torch.testing.assert_close(torch.nn.functional.conv2d(gray.expand(1, 3, 4, 4), three), token, atol=1e-5, rtol=1e-4)


def test_an_unknown_model_of_the_hub_is_refused_with_the_nearest():
    with pytest.raises(
        CheckpointError, match=r"no model named 'vit_smal_patch16_224'; nearest are vit_small_patch16_224"
    ):
        build(weights="hub:vit_smal_patch16_224")


def test_without_a_network_the_hub_says_to_give_a_file(monkeypatch):
    def shut(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("timm.create_model", shut)
    with pytest.raises(CheckpointError, match=r"could not be downloaded \(OSError\); give the path of a local file"):
        build(weights="hub:vit_small_patch16_224")


@pytest.mark.parametrize("layout", [official_dinov2, official_dinov3])
def test_the_token_of_hidden_patches_is_kept_and_a_decoders_is_not(layout):
    model = build(positions="learned", registers=4, layer_scale=1e-5)
    state = layout(model) | {"mask_token": torch.full((1, 48), 0.5)}
    assert torch.equal(load_weights(model, state, grid=model.grid, source="f").mask_token, torch.full((48,), 0.5))
    decoder = {"decoder_embed.weight": torch.zeros(8, 48)}
    assert load_weights(model, state | decoder, grid=model.grid, source="f").mask_token is None


def oblong() -> dict:
    """A file of a model of 4 x 16 patches: as many as 8 x 8."""
    return dict(build(positions="learned", image_size=(32, 128)).state_dict())


def test_positions_of_a_grid_of_4_by_16_are_not_taken_for_8_by_8(tmp_path):
    square, state = build(positions="learned", image_size=64), oblong()
    save_file(state, tmp_path / "w.safetensors")
    named = {"positions": "learned", "image_size": 64, "weights": str(tmp_path / "w.safetensors")}
    given = build(**named, weights_grid=(4, 16))
    expected = adapt_positions(state["pos_embed"], (4, 16), (8, 8))
    assert torch.equal(given.pos_embed, expected)
    assert given.fit.adapted == {"pos_embed": "grid (4, 16) -> (8, 8)"}
    described = {"positions": "learned", "ndim": 2, "patch_size": 8, "image_size": [32, 128]}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump({"backbone": described}))
    assert torch.equal(build(**named).pos_embed, expected)
    bare = load_weights(square, state, grid=(8, 8), source="f")
    assert "positions assumed to be a grid of 8 x 8 (backbone.weights_grid=" in bare.summary
    known = load_weights(square, state, grid=(8, 8), source="f", file_grid=(4, 16))
    assert "positions read as a grid of 4 x 16" in known.summary


def test_a_grid_that_could_be_two_is_asked_for():
    """64 positions: of 8 x 8 patches as of most public weights, or of 4 x 16 as the model has."""
    model = build(positions="learned", image_size=(32, 128))
    with pytest.raises(CheckpointError, match=r"of 8 x 8 or of 4 x 16 patches; give backbone.weights_grid=\[8, 8\] or"):
        load_weights(model, oblong(), grid=model.grid, source="file")
    fit = load_weights(model, oblong(), grid=model.grid, source="file", file_grid=(4, 16))
    assert fit.adapted == {}
    with pytest.raises(
        CheckpointError, match=r"are not those of backbone.weights_grid=\[5, 16\], which has 80 patches"
    ):
        load_weights(model, oblong(), grid=model.grid, source="file", file_grid=(5, 16))


def test_positions_of_prefix_tokens_are_told_from_patches_by_the_grid():
    model = build(positions="learned", image_size=(32, 40))
    moved = dict(model.state_dict())
    moved["pos_embed"] = torch.cat([torch.full((1, 1, 48), 0.25), moved["pos_embed"]], dim=1)
    other = build(positions="learned", image_size=(32, 40))
    load_weights(other, moved, grid=other.grid, source="file", file_grid=(4, 5))
    assert torch.equal(other.pos_embed, model.pos_embed)
    torch.testing.assert_close(other.cls_token, model.cls_token + 0.25)
