"""The official files of DINO, DINOv2, DINOv3 and MAE: true names and shapes load whole, features are timm's."""

import pytest
import timm
import torch
from timm.models import eva

from medvit.backbones.vit import VitConfig
from medvit.weights import load_weights
from tests.weights.test_layouts import PIXELS, SMALL, Shapes, blocks, official, ours, random_state, timms

LEARNED = {"ndim": 2, "channels": 3, "positions": "learned"}
ROPE = {"ndim": 2, "channels": 3, "positions": "rope", "registers": 4, "layer_scale": 1e-5, "norm_epsilon": 1e-5}


def dino(width: int, depth: int, patch: int, tokens: int) -> Shapes:
    """The `teacher` of dino_deitsmall16_pretrain_full_checkpoint.pth."""
    backbone = {f"backbone.{name}": shape for name, shape in vit(width, depth, patch, tokens).items()}
    head = {"head.mlp.0.weight": (2048, width), "head.mlp.0.bias": (2048,), "head.mlp.4.weight": (256, 2048)}
    return backbone | head | {"head.last_layer.weight_g": (65536, 1), "head.last_layer.weight_v": (65536, 256)}


def vit(width: int, depth: int, patch: int, tokens: int, *, scales: bool = False) -> Shapes:
    return official(width, depth, (patch, patch), tokens, scales=scales)


def dinov2(width: int, depth: int, *, registers: int, patch: int = 14, tokens: int = 1370) -> Shapes:
    """dinov2_vits14_reg4_pretrain.pth, and others of its family."""
    shapes = vit(width, depth, patch, tokens, scales=True) | {"mask_token": (1, width)}
    return shapes | ({"register_tokens": (1, registers, width)} if registers else {})


def gated(shapes: Shapes, width: int, hidden: int, names: dict[str, str]) -> Shapes:
    """The same with a gated MLP; `names` are the names of its layers."""
    rest = {name: shape for name, shape in shapes.items() if ".mlp." not in name}
    depth = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("blocks."))
    sizes = {"packed": (2 * hidden, width), "gate": (hidden, width), "value": (hidden, width), "out": (width, hidden)}
    for n in range(depth):
        for role, name in names.items():
            rest[f"blocks.{n}.mlp.{name}.weight"] = sizes[role]
            rest[f"blocks.{n}.mlp.{name}.bias"] = sizes[role][:1]
    return rest


def dinov3(width: int, depth: int, head: int, *, patch: int = 16) -> Shapes:
    """dinov3_vits16_pretrain_lvd1689m.pth, and others of its family."""
    shapes = {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    shapes |= {"cls_token": (1, 1, width), "storage_tokens": (1, 4, width), "mask_token": (1, width)}
    shapes |= {"rope_embed.periods": (head // 4,)} | blocks(width, depth, scales=True)
    return shapes | {f"blocks.{n}.attn.qkv.bias_mask": (3 * width,) for n in range(depth)}


PACKED, APART = {"packed": "w12", "out": "w3"}, {"gate": "w1", "value": "w2", "out": "w3"}


@pytest.mark.parametrize(
    ("shapes", "options"),
    [
        (dino(384, 12, 16, 197), LEARNED | {"size": "small", "patch_size": 16, "image_size": 224}),
        (dino(768, 12, 8, 785), LEARNED | {"size": "base", "patch_size": 8, "image_size": 224}),
        (
            dinov2(384, 12, registers=4),
            LEARNED | {"size": "small", "patch_size": 14, "image_size": 518, "registers": 4, "layer_scale": 1e-5},
        ),
        (
            dinov2(768, 12, registers=0),
            LEARNED | {"size": "base", "patch_size": 14, "image_size": 518, "layer_scale": 1e-5},
        ),
        (
            gated(dinov2(1536, 40, registers=4), 1536, 4096, PACKED),
            LEARNED
            | {"width": 1536, "depth": 40, "heads": 24, "patch_size": 14, "image_size": 518, "mlp": "swiglu"}
            | {"registers": 4, "layer_scale": 1e-5},
        ),
        (dinov3(384, 12, 64), ROPE | {"size": "small", "patch_size": 16}),
        (dinov3(1024, 24, 64), ROPE | {"size": "large", "patch_size": 16}),
        (
            gated(dinov3(384, 12, 64), 384, 1536, APART),
            ROPE | {"size": "small", "patch_size": 16, "mlp": "swiglu"},
        ),
        (vit(768, 12, 16, 197), LEARNED | {"size": "base", "patch_size": 16, "image_size": 224}),
    ],
    ids=[
        "DINO-S/16",
        "DINO-B/8",
        "DINOv2-S/14-registers",
        "DINOv2-B/14",
        "DINOv2-g/14-registers",
        "DINOv3-S/16",
        "DINOv3-L/16",
        "DINOv3-S+/16",
        "MAE-B/16",
    ],
)
def test_true_names_and_shapes_leave_nothing_missing_and_nothing_over(shapes, options):
    with torch.device("meta"):
        model = VitConfig(**options).build()
        state = {name: torch.empty(shape) for name, shape in shapes.items()}
    fit = load_weights(model, state, grid=model.grid, source="file")
    assert fit.missing == fit.unexpected == ()
    assert fit.adapted == {}
    assert fit.advice == ()


@pytest.mark.parametrize("wrapped", [False, True])
def test_dino_gives_the_features_of_timm_bare_and_within_its_full_checkpoint(wrapped, tmp_path):
    state = random_state(vit(48, 4, 8, 17))
    full = {name: tensor for name, tensor in random_state(dino(48, 4, 8, 17)).items() if name.startswith("head.")}
    full |= {f"backbone.{name}": tensor for name, tensor in state.items()}
    student = {f"module.{name}": torch.ones_like(tensor) for name, tensor in full.items()}
    saved = {"student": student, "teacher": full, "epoch": 100, "dino_loss": {"center": torch.zeros(1, 8)}}
    torch.save(saved if wrapped else state, tmp_path / "w.pth")
    torch.testing.assert_close(ours(tmp_path / "w.pth"), timms(state), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2_gives_the_features_of_timm_with_registers_and_without(registers, tmp_path):
    state = random_state(dinov2(48, 4, registers=registers, patch=8, tokens=17))
    torch.save(state, tmp_path / "w.pth")
    options = {"reg_tokens": registers, "no_embed_class": True} if registers else {}
    found = ours(tmp_path / "w.pth", registers=registers, layer_scale=1e-5)
    torch.testing.assert_close(found, timms(state, init_values=1e-5, **options), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "qkv_bias"), [("vit_small_patch16_dinov3", False), ("vit_small_patch16_dinov3_qkvb", True)]
)
def test_dinov3_gives_the_features_of_timm_with_the_bias_of_keys_masked(name, qkv_bias, tmp_path):
    state = random_state(dinov3(48, 4, 24, patch=8))
    for n in range(4):
        bias = state[f"blocks.{n}.attn.qkv.bias"]
        bias[48:96] = torch.nan  # masked in the files, where it is NaN
        if not qkv_bias:
            bias[:48], bias[96:] = 0.0, 0.0
    theirs = timm.create_model(
        name, pretrained=False, num_classes=0, embed_dim=48, depth=4, num_heads=2, patch_size=8, img_size=32
    ).eval()
    theirs.load_state_dict(eva.checkpoint_filter_fn(dict(state), theirs), strict=True)
    torch.save(state, tmp_path / "w.pth")
    options = SMALL | ROPE | {"qkv_bias": qkv_bias, "weights": str(tmp_path / "w.pth")}
    model = VitConfig(**options).build().eval()
    assert model.fit.missing == model.fit.unexpected == ()
    tokens = model(PIXELS)
    found = torch.cat([tokens.prefix, tokens.patches], dim=1)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, theirs.forward_features(PIXELS), atol=1e-5, rtol=1e-4)
