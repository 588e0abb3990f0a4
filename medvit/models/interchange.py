"""Export of checkpoints: a backbone as a timm model, or an adapter in the format of huggingface/peft.

Both are folders that these libraries load without medvit. The exported models compute the features (B, P + N, D) of the
backbone after its last norm, with prefix tokens first. Heads are specific to medvit and are not exported. Inputs must
be preprocessed as in training, which `preprocess.json`, written next to the weights, describes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from medvit.artifacts import MODEL_CARD, MODEL_PAGE, PREPROCESS, Checkpoint
from medvit.backbones import Backbone, BackboneConfig
from medvit.backbones.timm_layout import TimmModel, timm_model
from medvit.backbones.vit import VitConfig
from medvit.errors import CheckpointError, OutputError
from medvit.files.atomic import write_text, write_weights
from medvit.models.base import Described, complete, of_backbone
from medvit.peft import HubAdapter

TIMM_WEIGHTS, TIMM_CONFIG = "model.safetensors", "config.json"
PEFT_WEIGHTS, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
BASE = "base"
"""Folder inside an exported adapter, with the timm model that the adapter applies to."""
IMAGE_SIDE = 224


def to_timm(checkpoint: Checkpoint, folder: str | Path, *, image_size: int | tuple[int, int] | None = None) -> Path:
    """Write the backbone of a checkpoint, with adapters merged, as a folder that timm loads; return the folder.

    `timm.create_model("local-dir:FOLDER", pretrained=True)` builds the model with its weights and arguments. Position
    embeddings are written for images of `image_size` (side, or rows and columns). If it is unset, the size is the
    training size in the checkpoint, or 224 if the checkpoint has none. Transformers with rotary positions accept any
    size.

    Raises:
        CheckpointError: If timm does not have the architecture (such as a transformer for volumes), if its model
            computes different features, if the weights do not match their description, or if the checkpoint is an
            ensemble of several backbones.
        ConfigError: If a side of the image is not a multiple of the patch size.
        OutputError: If the folder is not empty.
    """
    config, backbone = _backbone_of(checkpoint)
    model = _checked(backbone, config, _sides(checkpoint, config, image_size))
    return _write_timm(model, checkpoint, _new(folder))


def to_peft(checkpoint: Checkpoint, folder: str | Path, *, image_size: int | tuple[int, int] | None = None) -> Path:
    """Write the adapter of a checkpoint for huggingface/peft; return the folder.

    The adapter may be of LoRA, DoRA, ExPLoRA or another method that huggingface/peft supports.

    `peft.PeftModel.from_pretrained(model, FOLDER)` applies it to a timm model. Either the public model that training
    started from can be used, or the base model, which is written into the same folder:
    `timm.create_model("local-dir:FOLDER/base", pretrained=True)`. Modules that ExPLoRA trained fully are among
    `modules_to_save`. `image_size` is that of the base model, as for `to_timm`.

    Raises:
        CheckpointError: If the checkpoint has no such adapter, if peft does not support it, or for the reasons listed
            at `to_timm`.
        ConfigError: If a side of the image is not a multiple of the patch size.
        OutputError: If the folder is not empty.
    """
    config, backbone = _backbone_of(checkpoint)
    adapter = _adapter_of(checkpoint, config, backbone)
    base = _checked(adapter.base, config, _sides(checkpoint, config, image_size))
    folder = _new(folder)
    write_weights(folder / PEFT_WEIGHTS, adapter.state)
    settings = adapter.settings | {"base_model_name_or_path": BASE}
    write_text(folder / PEFT_CONFIG, json.dumps(settings, indent=2) + "\n")
    _write_timm(base, checkpoint, folder / BASE)
    return folder


def _backbone_of(checkpoint: Checkpoint) -> tuple[BackboneConfig, Backbone]:
    """Return the description of the backbone of a checkpoint of any kind, and the backbone with its merged weights."""
    if checkpoint.is_ensemble:
        raise CheckpointError(
            f"{checkpoint.folder} is an ensemble of {checkpoint.model['members']} models, each with a backbone of its "
            "own; give the checkpoint of a single model, trained without folds and seeds"
        )
    config = Described.of(checkpoint).backbone.without_weights()
    backbone = config.build()
    try:
        backbone.load_state_dict(of_backbone(checkpoint, complete(checkpoint).state))
    except RuntimeError as error:
        last = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{checkpoint.folder}: the weights do not fit model.yaml: {last}") from None
    return config, backbone.eval()


def _adapter_of(checkpoint: Checkpoint, config: BackboneConfig, backbone: Backbone) -> HubAdapter:
    way = Described.of(checkpoint).peft
    weights = of_backbone(checkpoint, checkpoint.stored_adapter() or {})
    if way is None:
        reason = "it does not name an adaptation; to_timm writes the model"
    else:
        absent = "its adapter.safetensors is missing or has no weights of the backbone; to_timm writes the model"
        reason = way.NOT_IN_HUB or ("" if weights else absent)
    if way is None or reason:
        raise CheckpointError(f"{checkpoint.folder} has no adapter for huggingface/peft: {reason}")
    fused = any(".qkv." in name for name in weights)
    if fused and isinstance(config, VitConfig) and config.positions == "rope" and config.qkv_bias:
        raise CheckpointError(
            "timm's rotary attention with backbone.qkv_bias=true reads the weights of qkv directly, bypassing "
            "the update of huggingface/peft; to_timm writes the merged model"
        )
    return way.in_hub(backbone, weights)


def _sides(checkpoint: Checkpoint, config: BackboneConfig, asked: int | tuple[int, int] | None) -> tuple[int, ...]:
    """Return the image size for an export.

    The requested size (`asked`) comes first, then the training size, then the size for which the backbone has learned
    positions, then the default.
    """
    learned = config.image_size if isinstance(config, VitConfig) and config.positions == "learned" else None
    known = (asked, checkpoint.model.get("roi"), checkpoint.preprocess.get("size"), learned, IMAGE_SIDE)
    size = next(one for one in known if one is not None)
    return (size, size) if isinstance(size, int) else tuple(size)


def _checked(backbone: Backbone, config: BackboneConfig, image_size: tuple[int, ...]) -> TimmModel:
    model = timm_model(backbone, config, image_size)
    model.require_features_of(backbone)
    return model


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
    for name in (PREPROCESS, MODEL_CARD, MODEL_PAGE):
        if (checkpoint.folder / name).is_file():
            shutil.copyfile(checkpoint.folder / name, folder / name)
    return folder
