"""Layouts of public weights: true names and shapes load whole, and features equal those of their own libraries."""

from argparse import Namespace

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

from medvit.backbones.vit import VitConfig
from medvit.weights import load_weights, read_weights

LARGE = {"size": "large", "ndim": 2, "channels": 3, "positions": "learned", "image_size": 224}
Shapes = dict[str, tuple[int, ...]]


def blocks(width: int, depth: int, *, scales: bool) -> Shapes:
    shapes: Shapes = {}
    for n in range(depth):
        stem = f"blocks.{n}."
        for norm in ("norm1", "norm2"):
            shapes |= {f"{stem}{norm}.weight": (width,), f"{stem}{norm}.bias": (width,)}
        shapes |= {f"{stem}attn.qkv.weight": (3 * width, width), f"{stem}attn.qkv.bias": (3 * width,)}
        shapes |= {f"{stem}attn.proj.weight": (width, width), f"{stem}attn.proj.bias": (width,)}
        shapes |= {f"{stem}mlp.fc1.weight": (4 * width, width), f"{stem}mlp.fc1.bias": (4 * width,)}
        shapes |= {f"{stem}mlp.fc2.weight": (width, 4 * width), f"{stem}mlp.fc2.bias": (width,)}
        shapes |= {f"{stem}ls{k}.gamma": (width,) for k in (1, 2)} if scales else {}
    return shapes | {"norm.weight": (width,), "norm.bias": (width,)}


def official(width: int, depth: int, patch: tuple[int, ...], tokens: int, channels: int = 3, **more) -> Shapes:
    embedding = {"patch_embed.proj.weight": (width, channels, *patch), "patch_embed.proj.bias": (width,)}
    rest = {"cls_token": (1, 1, width), "pos_embed": (1, tokens, width)}
    return embedding | rest | blocks(width, depth, **more)


def retfound_mae() -> Shapes:
    decoder = {name.replace("blocks.", "decoder_blocks."): s for name, s in blocks(512, 8, scales=False).items()}
    decoder = {name if name.startswith("decoder_") else f"decoder_{name}": shape for name, shape in decoder.items()}
    heads = {"mask_token": (1, 1, 512), "decoder_pos_embed": (1, 197, 512), "decoder_embed.weight": (512, 1024)}
    heads |= {"decoder_embed.bias": (512,), "decoder_pred.weight": (768, 512), "decoder_pred.bias": (768,)}
    return official(1024, 24, (16, 16), 197, scales=False) | decoder | heads


def retfound_dinov2() -> Shapes:
    backbone = official(1024, 24, (14, 14), 257, scales=True) | {"mask_token": (1, 1024)}
    heads = {"dino_head.mlp.0.weight": (2048, 1024), "dino_head.last_layer.weight_v": (65536, 256)}
    return {f"backbone.{name}": shape for name, shape in backbone.items()} | heads


def in_transformers(width: int, depth: int, patch: int, tokens: int) -> Shapes:
    """Dinov2Model of huggingface/transformers as it writes its files."""
    shapes = {
        "embeddings.cls_token": (1, 1, width),
        "embeddings.mask_token": (1, width),
        "embeddings.position_embeddings": (1, tokens, width),
        "embeddings.patch_embeddings.projection.weight": (width, 3, patch, patch),
        "embeddings.patch_embeddings.projection.bias": (width,),
        "layernorm.weight": (width,),
        "layernorm.bias": (width,),
    }
    for n in range(depth):
        stem = f"encoder.layer.{n}."
        for name in ("attention.attention.query", "attention.attention.key", "attention.attention.value"):
            shapes |= {f"{stem}{name}.weight": (width, width), f"{stem}{name}.bias": (width,)}
        shapes |= {
            f"{stem}attention.output.dense.weight": (width, width),
            f"{stem}attention.output.dense.bias": (width,),
        }
        shapes |= {f"{stem}mlp.fc1.weight": (4 * width, width), f"{stem}mlp.fc1.bias": (4 * width,)}
        shapes |= {f"{stem}mlp.fc2.weight": (width, 4 * width), f"{stem}mlp.fc2.bias": (width,)}
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            shapes[f"{stem}{name}"] = (width,)
        shapes |= {f"{stem}layer_scale{k}.lambda1": (width,) for k in (1, 2)}
    return shapes


def hi_end_mae() -> Shapes:
    encoder = official(1536, 12, (16, 16, 16), 216, channels=1, scales=False)
    positions = encoder.pop("pos_embed")
    shapes = {f"module.encoder.{name}": shape for name, shape in encoder.items()}
    decoder = {f"module.decoder.{name}": shape for name, shape in blocks(528, 2, scales=False).items()}
    for n in range(3):
        decoder |= {f"module.decoder.cross_attention_blocks.{n}.cross_attn.kv.weight": (1056, 528)}
    rest = {f"module.encoder_to_decoder.{n}.weight": (528, 1536) for n in range(4)}
    rest |= {"module.mask_token": (1, 1, 528), "module.decoder_pos_embed": (1, 216, 528)}
    return shapes | decoder | rest | {"module.encoder_pos_embed": positions}


@pytest.mark.parametrize(
    ("shapes", "options"),
    [
        (retfound_mae(), LARGE | {"patch_size": 16}),
        (retfound_dinov2(), LARGE | {"patch_size": 14, "layer_scale": 1e-5}),
        (
            in_transformers(768, 12, 14, 1370),  # RAD-DINO
            LARGE | {"size": "base", "patch_size": 14, "image_size": 518, "layer_scale": 1e-5},
        ),
        (in_transformers(1024, 24, 16, 197), LARGE | {"patch_size": 16, "layer_scale": 1e-5}),  # Phikon-v2
        (
            hi_end_mae(),
            {"ndim": 3, "channels": 1, "width": 1536, "depth": 12, "heads": 16, "patch_size": 16}
            | {"positions": "learned", "image_size": 96},
        ),
    ],
    ids=["RETFound", "RETFound-DINOv2", "RAD-DINO", "Phikon-v2", "Hi-End-MAE"],
)
def test_true_names_and_shapes_leave_nothing_missing_and_nothing_over(shapes, options):
    with torch.device("meta"):
        model = VitConfig(**options).build()
        state = {name: torch.empty(shape) for name, shape in shapes.items()}
    fit = load_weights(model, state, grid=model.grid, source="file")
    assert fit.missing == ()
    assert fit.unexpected == ()
    assert fit.adapted == {}
    assert fit.advice == ()


SMALL = {"ndim": 2, "channels": 3, "patch_size": 8, "width": 48, "depth": 4, "heads": 2}
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def random_state(shapes: Shapes) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def ours(path, **options):
    model = VitConfig(**SMALL | {"positions": "learned", "image_size": 32, "weights": str(path)} | options).build()
    assert model.fit.missing == model.fit.unexpected == ()
    tokens = model.eval()(PIXELS)
    return torch.cat([tokens.prefix, tokens.patches], dim=1)


def timms(state, **options):
    model = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=4, num_heads=2, num_classes=0, global_pool="token", **options
    )
    wanted = model.state_dict().keys()
    filtered = checkpoint_filter_fn(dict(state), model)
    model.load_state_dict({name: tensor for name, tensor in filtered.items() if name in wanted}, strict=True)
    return model.eval().forward_features(PIXELS)


def test_retfound_with_its_command_line_beside_gives_the_features_of_timm(tmp_path):
    encoder = random_state(official(48, 4, (8, 8), 17, scales=False))
    decoder = {"mask_token": torch.zeros(1, 1, 8), "decoder_blocks.0.norm1.weight": torch.zeros(8)}
    kept = {"model": encoder | decoder, "epoch": 799, "args": Namespace(batch_size=16, blr=1e-3)}
    torch.save(kept, tmp_path / "RETFound.pth")
    torch.testing.assert_close(ours(tmp_path / "RETFound.pth"), timms(encoder), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("chunks", [1, 2])
def test_retfound_of_dinov2_gives_the_features_of_timm(chunks, tmp_path):
    state = random_state(official(48, 4, (8, 8), 17, scales=True))
    theirs = {}
    for name, tensor in state.items():
        if chunks > 1 and name.startswith("blocks."):
            name = f"blocks.{int(name.split('.')[1]) // 2}.{name.removeprefix('blocks.')}"
        theirs[f"backbone.{name}"] = tensor
    heads = {"backbone.mask_token": torch.zeros(1, 48), "dino_head.mlp.0.weight": torch.zeros(4, 48)}
    torch.save({"teacher": theirs | heads}, tmp_path / "w.pth")
    found = ours(tmp_path / "w.pth", layer_scale=1e-5)
    torch.testing.assert_close(found, timms(state, init_values=1e-5), atol=1e-5, rtol=1e-4)


def test_a_timm_model_by_its_own_name_gives_its_features(tmp_path):
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32).eval()
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    options = {"width": None, "depth": None, "heads": None, "size": "tiny", "patch_size": 16}
    found = ours(tmp_path / "w.safetensors", **options)
    torch.testing.assert_close(found, theirs.forward_features(PIXELS), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("registers", [0, 4])
def test_rad_dino_and_phikon_give_the_features_of_transformers(registers, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed; it is no dependency")
    sizes = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    if registers:
        config = transformers.Dinov2WithRegistersConfig(**sizes, num_register_tokens=registers)
        theirs = transformers.Dinov2WithRegistersModel(config).eval()
    else:
        theirs = transformers.Dinov2Model(transformers.Dinov2Config(**sizes)).eval()
    for weight in theirs.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    theirs.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = theirs(PIXELS).last_hidden_state
    found = ours(tmp_path / "model.safetensors", registers=registers, layer_scale=1e-5)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    save_file(theirs.state_dict(), tmp_path / "in-memory.safetensors")
    again = ours(tmp_path / "in-memory.safetensors", registers=registers, layer_scale=1e-5)
    assert torch.equal(again, found)


def test_hi_end_mae_gives_the_features_of_the_same_encoder_in_3d(tmp_path):
    options = SMALL | {"ndim": 3, "channels": 1, "positions": "learned", "image_size": 32}
    model = VitConfig(**options).build().eval()
    state = {f"module.encoder.{name}": tensor for name, tensor in model.state_dict().items()}
    state["module.encoder_pos_embed"] = state.pop("module.encoder.pos_embed")
    state["module.decoder.blocks.0.norm1.weight"] = torch.zeros(8)
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "w.pth")
    loaded = VitConfig(**options | {"weights": str(tmp_path / "w.pth")}).build().eval()
    assert loaded.fit.missing == loaded.fit.unexpected == ()
    volume = torch.randn(1, 1, 32, 32, 32)
    assert torch.equal(loaded(volume).patches, model(volume).patches)


def test_a_command_line_beside_the_weights_is_no_code(tmp_path):
    torch.save({"model": {"norm.weight": torch.ones(3)}, "args": Namespace(lr=1.0)}, tmp_path / "w.pth")
    assert read_weights(tmp_path / "w.pth").keys() == {"norm.weight"}
