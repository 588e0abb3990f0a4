"""timm model that is equivalent to a vision transformer of medvit: architecture, arguments, weights.

timm stores position embeddings as weights, while the default backbone computes sines and cosines; sines and cosines are
therefore stored as weights for one image size. The timm architecture is chosen by two properties that only a timm entry
point can set: the class of the MLP and the epsilon of the norms. Everything else is set by arguments, which override
those of the entry point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn

from medvit.backbones import Backbone, BackboneConfig
from medvit.backbones.timm_network import TimmNetwork
from medvit.backbones.vit import ViT, VitConfig, packed_swiglu_ratio
from medvit.config import Tree
from medvit.errors import CheckpointError, ConfigError

ARCHITECTURES = {
    ("added", "gelu", 1e-6): "vit_base_patch16_224",
    ("added", "gelu", 1e-5): "vit_base_patch16_clip_224",
    ("added", "swiglu", 1e-6): "vit_giant_patch14_dinov2",
    ("rope", "gelu", 1e-6): "vit_base_patch16_rope_224",
    ("rope", "swiglu", 1e-6): "vit_base_patch16_rope_224",
    ("rope", "gelu", 1e-5): "vit_base_patch16_dinov3",
    ("rope", "swiglu", 1e-5): "vit_base_patch16_dinov3",
}
"""(Kind of positions, kind of MLP, epsilon of the norms) -> timm entry point that has all three."""
FEATURE_TOLERANCE = 1e-4
"""Maximum difference between features of timm and of medvit, relative to the largest feature, that rounding in float32
explains.
"""


@dataclass(frozen=True)
class TimmModel:
    """Model of timm: `timm.create_model(architecture, **arguments)` with the weights `state`."""

    architecture: str
    arguments: Tree
    state: Mapping[str, Tensor]

    def build(self) -> nn.Module:
        """Return the model, in evaluation mode.

        Raises:
            CheckpointError: If the installed timm makes a different model from these arguments.
        """
        try:
            model: nn.Module = timm.create_model(self.architecture, **self.arguments)
            model.load_state_dict(dict(self.state))
        except (TypeError, AssertionError, RuntimeError) as error:
            raise CheckpointError(
                f"timm {timm.__version__} does not accept this backbone as {self.architecture} "
                f"({type(error).__name__}); medvit needs timm 1.0.20 or newer"
            ) from error
        return model.eval()

    @torch.no_grad()
    def require_features_of(self, backbone: Backbone) -> None:
        """Check, on one image of noise, that timm computes the same features as the backbone.

        Raises:
            CheckpointError: If the features differ.
        """
        side = self.arguments["img_size"]
        noise = torch.randn(1, backbone.channels, *side, generator=torch.Generator().manual_seed(0))
        tokens = backbone.eval()(noise)
        expected = torch.cat([tokens.prefix, tokens.patches], dim=1)
        model: Any = self.build()
        found = model.forward_features(noise)
        difference = float((found - expected).abs().max()) if found.shape == expected.shape else float("inf")
        if not difference <= FEATURE_TOLERANCE * float(expected.abs().max()):
            raise CheckpointError(
                f"timm {timm.__version__} computes different features from these weights (by up to {difference:.2g}); "
                "nothing was written"
            )


def timm_model(backbone: Backbone, config: BackboneConfig, image_size: tuple[int, ...]) -> TimmModel:
    """Return the timm model with the same features as a 2D transformer, for images of (H, W) pixels.

    With rotary positions, the timm model also accepts other sizes; with other positions it refuses them, because it
    stores positions for one size only.

    Raises:
        CheckpointError: If timm has no such transformer, as for volumes.
        ConfigError: If a side of the image is not a multiple of the patch size.
    """
    if isinstance(backbone, TimmNetwork):
        raise CheckpointError(
            f"the backbone is {backbone.model} of timm and does not need a conversion; its weights have the "
            "names of timm behind backbone.network."
        )
    if not isinstance(backbone, ViT) or not isinstance(config, VitConfig):
        raise CheckpointError(f"timm has no equivalent of the backbone {config.name!r}; expected vit")
    _refuse_volumes(backbone)
    if backbone.has_channel_tokens:
        raise CheckpointError(
            "the backbone has a token for each channel of a patch, unlike the transformers of timm; load the backbone "
            "through medvit"
        )
    if config.deep_prompts or config.adapter_width:
        added = "prompts of each block" if config.deep_prompts else "bottlenecks beside the MLP of each block"
        raise CheckpointError(f"the backbone has {added}, which timm does not; load the backbone through medvit")
    wrong = [side for side, patch in zip(image_size, backbone.patch_size, strict=True) if side % patch or side < patch]
    if wrong:
        raise ConfigError(f"image_size is {image_size}; expected multiples of the patch {backbone.patch_size}")
    architecture = _architecture(backbone, config)
    grid = tuple(side // patch for side, patch in zip(image_size, backbone.patch_size, strict=True))
    positions = backbone.added_positions(grid)
    state = {name: weight.detach().clone() for name, weight in backbone.state_dict().items()}
    if positions is not None:
        state["pos_embed"] = positions.detach().clone()
    arguments = _arguments(backbone, config, image_size)
    if config.layer_scale is None and (config.positions == "rope" or config.mlp == "swiglu"):
        # These entry points always scale the outputs of blocks: a scale of one changes nothing.
        arguments["init_values"] = 1.0
        state |= {name: torch.ones(backbone.width) for name in _scales(backbone, config)}
    return TimmModel(architecture, arguments, state)


def _refuse_volumes(backbone: ViT) -> None:
    if backbone.ndim != 2:
        raise CheckpointError(
            "the backbone is for volumes, but timm has no patch embedding of three axes; load the backbone through "
            "medvit"
        )


def _architecture(backbone: ViT, config: VitConfig) -> str:
    is_rope = config.positions == "rope"
    if is_rope and backbone.width // backbone.heads % 4:
        raise CheckpointError(
            f"timm rotates whole quarters of a head, and this one is {backbone.width // backbone.heads} wide; "
            "medvit does not rotate the rest"
        )
    known = (("rope" if is_rope else "added"), config.mlp, config.norm_epsilon)
    if known not in ARCHITECTURES:
        raise CheckpointError(
            f"timm has no transformer with mlp={config.mlp}, positions={config.positions} and "
            f"norm_epsilon={config.norm_epsilon:g} whose epsilon can be set; it has 1e-06, and 1e-05 but for swiglu "
            "without rope"
        )
    return ARCHITECTURES[known]


def _scales(backbone: ViT, config: VitConfig) -> list[str]:
    names = ("gamma_1", "gamma_2") if config.positions == "rope" else ("ls1.gamma", "ls2.gamma")
    return [f"blocks.{number}.{name}" for number in range(backbone.depth) for name in names]


def _arguments(backbone: ViT, config: VitConfig, image_size: tuple[int, ...]) -> Tree:
    shared = {
        "img_size": list(image_size),
        "patch_size": list(backbone.patch_size),
        "in_chans": backbone.channels,
        "num_classes": 0,
        "global_pool": "token" if config.class_token else "avg",
        "embed_dim": backbone.width,
        "depth": backbone.depth,
        "num_heads": backbone.heads,
        "qkv_bias": config.qkv_bias,
        "init_values": config.layer_scale,
        "class_token": config.class_token,
        "mlp_ratio": 4.0,
    }
    if config.positions == "rope":
        return shared | {
            "num_reg_tokens": config.registers,
            "swiglu_mlp": config.mlp == "swiglu",
            "swiglu_align_to": 8,
            "attn_type": "eva",
            "use_abs_pos_emb": False,
            "use_rot_pos_emb": True,
            "rope_type": "dinov3",
            "rope_temperature": 100.0,
            "rope_grid_indexing": "ij",
            "rope_rotate_half": True,
            "use_fc_norm": False,
            "dynamic_img_size": True,
        }
    ratio = packed_swiglu_ratio(backbone.width) if config.mlp == "swiglu" else 4.0
    # Positions are only for patches; the norm comes before pooling, like in `forward_features` with any pooling.
    added = {"no_embed_class": True, "pre_norm": False, "fc_norm": False}
    return shared | {"reg_tokens": config.registers, "mlp_ratio": ratio} | added
