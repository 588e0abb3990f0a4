"""Export of checkpoints: a backbone as a timm model, or a low-rank adapter in the format of huggingface/peft.

Both are folders that these libraries load without medvit. The exported models compute the features (B, P + N, D) of the
backbone after its last norm, with prefix tokens first. Heads are specific to medvit and are not exported. Inputs must
be preprocessed as in training, which `preprocess.json`, written next to the weights, describes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from medvit.artifacts import MODEL_CARD, PREPROCESS, Checkpoint
from medvit.backbones import Backbone, BackboneChoice, BackboneConfig
from medvit.backbones.timm_layout import TimmModel, timm_model
from medvit.backbones.vit import VitConfig
from medvit.config import Config, Tree
from medvit.errors import CheckpointError, OutputError
from medvit.files.atomic import write_text, write_weights
from medvit.peft import OptionalPeftChoice, PeftConfig
from medvit.peft.explora import ExploraConfig
from medvit.peft.lora import LoraConfig

TIMM_WEIGHTS, TIMM_CONFIG = "model.safetensors", "config.json"
PEFT_WEIGHTS, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
BASE = "base"
"""Folder beside an adapter with the timm model that it belongs to."""
IMAGE_SIDE = 224
LOW_RANK = (".lora_A.default.weight", ".lora_B.default.weight")
UNADAPTED = {
    "full": "all weights were trained, so a separate adapter does not exist; to_timm writes the model",
    "frozen": "no weight of the backbone was trained; to_timm writes the model",
    "block_expansion": "blocks were added, which no method of huggingface/peft does; to_timm writes the model",
}
"""Adaptation -> why it has no adapter for huggingface/peft."""


def to_timm(checkpoint: Checkpoint, folder: str | Path, *, image_size: int | tuple[int, int] | None = None) -> Path:
    """Write the backbone of a checkpoint, with adapters merged, as a folder that timm loads; return the folder.

    `timm.create_model("local-dir:FOLDER", pretrained=True)` builds the model with its weights and arguments. Position
    embeddings are written for images of `image_size` (side, or rows and columns). If it is unset, the size is the
    training size in the checkpoint, or 224 if the checkpoint has none. Transformers with rotary positions accept any
    size.

    Raises:
        CheckpointError: If timm has no such transformer (as for volumes) or gives other features for it, or the weights
            do not fit their description.
        ConfigError: If a side of the image is not a multiple of the patch size.
        OutputError: If the folder is not empty.
    """
    config, backbone = _backbone_of(checkpoint)
    model = _checked(backbone, config, _sides(checkpoint, config, image_size))
    return _write_timm(model, checkpoint, _new(folder))


def to_peft(checkpoint: Checkpoint, folder: str | Path, *, image_size: int | tuple[int, int] | None = None) -> Path:
    """Write the LoRA or ExPLoRA adapter of a checkpoint for huggingface/peft; return the folder.

    `peft.PeftModel.from_pretrained(model, FOLDER)` applies it to a timm model: to the public model that training
    started from, or to `timm.create_model("local-dir:FOLDER/base", pretrained=True)`, which is written as well. Modules
    that ExPLoRA trained fully are among `modules_to_save`. `image_size` is that of the base model, as for `to_timm`.

    Raises:
        CheckpointError: If the checkpoint has no such adapter, if peft does not support it, or for the reasons listed
            at `to_timm`.
        ConfigError: If a side of the image is not a multiple of the patch size.
        OutputError: If the folder is not empty.
    """
    config, backbone = _backbone_of(checkpoint)
    adapter = _adapter_of(checkpoint, config)
    merged = backbone.state_dict()
    saved = adapter.whole_modules()
    state = dict(adapter.state) | {name: weight for name, weight in merged.items() if name.startswith(_inside(saved))}
    backbone.load_state_dict(merged | adapter.base(merged))
    base = _checked(backbone, config, _sides(checkpoint, config, image_size))
    folder = _new(folder)
    write_weights(folder / PEFT_WEIGHTS, {_name_in_peft(name): weight for name, weight in state.items()})
    write_text(folder / PEFT_CONFIG, json.dumps(adapter.description(saved), indent=2) + "\n")
    _write_timm(base, checkpoint, folder / BASE)
    return folder


@dataclass(frozen=True)
class _Adapter:
    """Weights of a backbone that training changed: low-rank factors, and fully trained weights."""

    way: LoraConfig | ExploraConfig
    state: Mapping[str, Tensor]

    @property
    def layers(self) -> list[str]:
        """Layers with low-rank updates."""
        return sorted(name.removesuffix(LOW_RANK[0]) for name in self.state if name.endswith(LOW_RANK[0]))

    def whole_modules(self) -> tuple[str, ...]:
        """Return the outermost modules whose weights were all fully trained.

        Raises:
            CheckpointError: If a weight is outside of any module, or in a module that also has low-rank updates.
        """
        whole = [name for name in self.state if not name.endswith(LOW_RANK)]
        bare = sorted(name for name in whole if "." not in name)
        if bare:
            raise CheckpointError(
                f"huggingface/peft stores fully trained modules, and {', '.join(bare)} is outside of any "
                "module; to_timm writes the merged model"
            )
        owners = sorted({name.rpartition(".")[0] for name in whole})
        outermost = tuple(name for name in owners if not name.startswith(_inside(set(owners) - {name})))
        mixed = [layer for layer in self.layers if f"{layer}.".startswith(_inside(outermost))]
        if mixed:
            raise CheckpointError(
                f"{mixed[0]} has a low-rank update inside a fully trained module, which huggingface/peft does "
                "not support; to_timm writes the merged model"
            )
        return outermost

    def base(self, merged: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of the layers without their low-rank updates, from the merged weights."""
        scale = self.way.alpha / self.way.rank
        found = {}
        for layer in self.layers:
            down, up = (self.state[f"{layer}{suffix}"].double() for suffix in LOW_RANK)
            weight = merged[f"{layer}.weight"]
            found[f"{layer}.weight"] = (weight.double() - scale * (up @ down)).to(weight.dtype)
        return found

    def description(self, saved: tuple[str, ...]) -> Tree:
        """Return the content of `adapter_config.json`."""
        return {
            "peft_type": "LORA",
            "task_type": None,
            "base_model_name_or_path": BASE,
            "inference_mode": True,
            "r": self.way.rank,
            "lora_alpha": self.way.alpha,
            "lora_dropout": self.way.dropout if isinstance(self.way, LoraConfig) else 0.0,
            "bias": "none",
            "target_modules": self.layers,
            # Matched by the end of a name: "model." prevents "norm" from matching every norm.
            "modules_to_save": [f"model.{name}" for name in saved] or None,
        }


class _Described(Config):
    """Part of a checkpoint's configuration that describes the backbone."""

    backbone: BackboneChoice
    peft: OptionalPeftChoice = None


def _described(checkpoint: Checkpoint) -> _Described:
    tree: Tree = {key: checkpoint.model[key] for key in ("backbone", "peft") if key in checkpoint.model}
    return _Described.parse_saved(tree, source=str(checkpoint.folder))


def _backbone_of(checkpoint: Checkpoint) -> tuple[BackboneConfig, Backbone]:
    """Return the description of the backbone of a checkpoint of any kind, and the backbone with its merged weights."""
    config = _described(checkpoint).backbone.without_weights()
    backbone = config.build()
    try:
        backbone.load_state_dict(_of_backbone(checkpoint, checkpoint.state))
    except RuntimeError as error:
        last = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{checkpoint.folder}: the weights do not fit model.yaml: {last}") from None
    return config, backbone.eval()


def _of_backbone(checkpoint: Checkpoint, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of the backbone under its names, without those of a head."""
    if checkpoint.kind == "backbone":
        return dict(weights)
    prefix = "backbone."
    return {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}


def _adapter_of(checkpoint: Checkpoint, config: BackboneConfig) -> _Adapter:
    way = _described(checkpoint).peft
    weights = _of_backbone(checkpoint, checkpoint.stored_adapter() or {})
    if not isinstance(way, LoraConfig | ExploraConfig) or not weights:
        raise CheckpointError(f"{checkpoint.folder} has no adapter for huggingface/peft: {_why_not(way)}")
    adapter = _Adapter(way, weights)
    fused = any(layer.endswith(".qkv") for layer in adapter.layers)
    if fused and isinstance(config, VitConfig) and config.positions == "rope" and config.qkv_bias:
        raise CheckpointError(
            "timm's rotary attention with backbone.qkv_bias=true reads the weights of qkv directly, bypassing "
            "the update of huggingface/peft; to_timm writes the merged model"
        )
    return adapter


def _why_not(way: PeftConfig | None) -> str:
    if way is None:
        return "it does not name an adaptation; to_timm writes the model"
    return UNADAPTED.get(way.name, "its adapter.safetensors is missing or has no weights of the backbone")


def _sides(checkpoint: Checkpoint, config: BackboneConfig, asked: int | tuple[int, int] | None) -> tuple[int, ...]:
    """Return the requested image size, else the training size, else the size for which positions were learned."""
    learned = config.image_size if isinstance(config, VitConfig) and config.positions == "learned" else None
    known = (asked, checkpoint.model.get("roi"), checkpoint.preprocess.get("size"), learned, IMAGE_SIDE)
    size = next(one for one in known if one is not None)
    return (size, size) if isinstance(size, int) else tuple(size)


def _checked(backbone: Backbone, config: BackboneConfig, image_size: tuple[int, ...]) -> TimmModel:
    model = timm_model(backbone, config, image_size)
    model.require_features_of(backbone)
    return model


def _inside(modules: Iterable[str]) -> tuple[str, ...]:
    """Return the prefixes of the names of weights inside these modules."""
    return tuple(f"{name}." for name in modules)


def _name_in_peft(name: str) -> str:
    for suffix in LOW_RANK:
        name = name.replace(suffix, suffix.replace(".default", ""))
    return f"base_model.model.{name}"


def _new(folder: str | Path) -> Path:
    path = Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise OutputError(f"{path} exists already; give another folder or remove it first")
    path.mkdir(parents=True, exist_ok=True)
    return path


def _write_timm(model: TimmModel, checkpoint: Checkpoint, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    channels, side = model.arguments["in_chans"], model.arguments["img_size"]
    description = {
        "architecture": model.architecture,
        "num_classes": 0,
        "num_features": model.arguments["embed_dim"],
        "global_pool": model.arguments["global_pool"],
        "model_args": model.arguments,
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": [channels, *side],
            "fixed_input_size": not model.arguments.get("dynamic_img_size", False),
            "crop_pct": 1.0,
            # Pixels are preprocessed as in preprocess.json, not by timm's transforms: these values change nothing.
            "mean": [0.0] * channels,
            "std": [1.0] * channels,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    write_weights(folder / TIMM_WEIGHTS, model.state)
    write_text(folder / TIMM_CONFIG, json.dumps(description, indent=2) + "\n")
    for name in (PREPROCESS, MODEL_CARD):
        if (checkpoint.folder / name).is_file():
            shutil.copyfile(checkpoint.folder / name, folder / name)
    return folder
