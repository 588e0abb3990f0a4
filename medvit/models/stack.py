"""Stack of models on one backbone: loaded once, and each image encoded once for all heads with the same encoder."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medvit.artifacts import ADAPTER, Checkpoint
from medvit.backbones import Backbone
from medvit.errors import CheckpointError
from medvit.files.tensors import digest_of
from medvit.heads import of_earlier_version
from medvit.models.base import PREFIX, SharedWeights, of_backbone, of_head
from medvit.models.image import Model, ModelConfig, cut, num_outputs
from medvit.peft.full import FullConfig
from medvit.tasks import TaskName, is_image_task
from medvit.types import Tokens


class Encoder:
    """Backbone that caches the tokens of the last pixels, for the next model that reads the same pixels."""

    def __init__(self, backbone: Backbone, layers: Sequence[int]) -> None:
        self.backbone, self.layers = backbone, sorted(set(layers))
        self._last: tuple[Tensor, dict[int, Tokens]] | None = None

    def __call__(self, padded: Float[Tensor, "b c *s"]) -> dict[int, Tokens]:
        """Return the tokens after each of the layers that any head reads."""
        if self._last is None or not torch.equal(self._last[0], padded):
            found = self.backbone.intermediate(padded, self.layers)
            self._last = padded, dict(zip(self.layers, found, strict=True))
        return self._last[1]

    def forget(self) -> None:
        """Free the memory of the cached tokens."""
        self._last = None


class HeadStack(Model):
    """Heads on the same tokens, with one sliding window; the logits (B, sum of L, *S) of all heads are concatenated."""

    def __init__(self, models: Mapping[str, Model], encoder: Encoder) -> None:
        nn.Module.__init__(self)
        first, *_ = models.values()
        self.config, self.backbone = first.config, first.backbone
        self.names, self.models = tuple(models), nn.ModuleList(models.values())
        self.encoder = encoder

    def forward(self, pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b l *t"]:
        """Return the logits of all heads, one after the other."""
        padded = self._padded(pixels)
        tokens, filled = self.encoder(padded), self.backbone.filled(padded)
        logits = [model.head([tokens[layer] for layer in layers_of(model)], filled) for model in self._models()]
        return torch.cat([cut(each, pixels) for each in logits], dim=1)

    def predict_each(self, pixels: Float[Tensor, "b c *s"]) -> dict[str, Float[Tensor, "b l *t"]]:
        """Return the predictions of each model, keyed by the name of the model."""
        sizes = [len(model.config.regions or model.config.classes) for model in self._models()]
        return dict(zip(self.names, self.predict(pixels).split(sizes, dim=1), strict=True))

    def activated(self, logits: Tensor) -> Tensor:
        """Return the predictions of the models, one after the other."""
        parts = logits.split([num_outputs(model.config) for model in self._models()], dim=1)
        return torch.cat([model.activated(part) for model, part in zip(self._models(), parts, strict=True)], dim=1)

    def _models(self) -> Iterator[Model]:
        for model in self.models:
            assert isinstance(model, Model)
            yield model


@dataclass(frozen=True)
class Stack:
    """Models keyed by name; heads with the same encoder and sliding window form a group and predict together."""

    models: Mapping[str, Model]
    groups: tuple[HeadStack, ...]

    @classmethod
    def of(
        cls, checkpoints: Mapping[str, Checkpoint], inputs: Mapping[str, str], device: torch.device | str = "cpu"
    ) -> Stack:
        """Return the stack of models of checkpoints that `Checkpoint.load_adapter` loaded.

        `inputs` describes the input of each model by a text; models with different inputs are in different groups.

        Raises:
            CheckpointError: If the checkpoints do not share one backbone, or one is an ensemble or a slide model.
        """
        require_one_backbone(checkpoints)
        first, *_ = checkpoints.values()
        shared = SharedWeights.of(first).to(device)
        encoders: dict[str, Backbone] = {}
        models: dict[str, Model] = {}
        keys: dict[str, str] = {}
        for name, checkpoint in checkpoints.items():
            key = keys[name] = _encoder_key(checkpoint)
            if key not in encoders:
                encoders[key] = shared.adapted(checkpoint).attached().to(device)
            models[name] = _model(checkpoint, encoders[key]).to(device)
        return cls(models, tuple(_groups(models, keys, inputs)))

    def predict(self, names: Collection[str], pixels: Float[Tensor, "b c *s"]) -> dict[str, Float[Tensor, "b l *t"]]:
        """Return the float32 predictions (as of `Model.predict`) of models with the same input, keyed by name."""
        groups = [group for group in self.groups if set(group.names) <= set(names)]
        found: dict[str, Tensor] = {}
        for group in groups:
            found |= group.predict_each(pixels)
        for group in groups:
            group.encoder.forget()
        return found


def layers_of(model: Model) -> tuple[int, ...]:
    """Return the backbone blocks whose tokens the head reads."""
    return model.head.layers or (model.backbone.depth - 1,)


def require_one_backbone(checkpoints: Mapping[str, Checkpoint]) -> None:
    """Check that checkpoints can be loaded on one backbone.

    Raises:
        CheckpointError: If the checkpoints do not share one backbone, or one is an ensemble or a slide model.
    """
    for name, checkpoint in checkpoints.items():
        checkpoint.require(*get_args(TaskName))
        if checkpoint.is_ensemble:
            raise CheckpointError(
                f"{name} is an ensemble of {checkpoint.model['members']} models, each with a backbone of its own; "
                "predict with it alone"
            )
    digests = {name: str(checkpoint.model["base"]["sha256"]) for name, checkpoint in checkpoints.items()}
    (first, expected), *others = digests.items()
    wrong = [f"that of {name} is {digest[:12]}" for name, digest in others if digest != expected]
    if wrong:
        raise CheckpointError(
            f"the checkpoints do not share one backbone: that of {first} is {expected[:12]}, {', '.join(wrong)} (the "
            "start of the SHA-256 of its weights); predict with those of one backbone at a time, which medvit models "
            "lists"
        )


def _encoder_key(checkpoint: Checkpoint) -> str:
    """Return a text that is the same for checkpoints with the same encoder."""
    if not of_backbone(checkpoint, checkpoint.adapter or {}):
        return "frozen"
    options = json.dumps(checkpoint.model["peft"], sort_keys=True)
    return f"{options} {digest_of(checkpoint.folder / ADAPTER, PREFIX)}"


def _model(checkpoint: Checkpoint, encoder: Backbone) -> Model:
    """Return the model of a checkpoint with its head on an encoder that contains its adapter."""
    config = ModelConfig.parse_saved(of_earlier_version(checkpoint.model), source=str(checkpoint.folder))
    model = Model(config.model_copy(update={"peft": FullConfig()}), encoder)
    state = {name.removeprefix("head."): weight for name, weight in of_head(checkpoint).items()}
    try:
        model.head.load_state_dict(state)
    except RuntimeError as error:
        last = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{checkpoint.folder}: the head in {ADAPTER} does not fit model.yaml: {last}") from None
    return model.eval().requires_grad_(False)


def _groups(models: Mapping[str, Model], keys: Mapping[str, str], inputs: Mapping[str, str]) -> Iterator[HeadStack]:
    """Yield groups of models whose heads read the same windows of the same input and encoder."""
    layers: dict[str, list[int]] = {}
    groups: dict[object, dict[str, Model]] = {}
    for name, model in models.items():
        config = model.config
        layers.setdefault(keys[name], []).extend(layers_of(model))
        windows = (config.roi, config.overlap, config.mirrored_axes, config.turned_axes)
        shared = (keys[name], inputs[name], is_image_task(config.kind), *windows)
        groups.setdefault(shared, {})[name] = model
    encoders: dict[str, Encoder] = {}
    for group in groups.values():
        name, model = next(iter(group.items()))
        encoder = encoders.setdefault(keys[name], Encoder(model.backbone, layers[keys[name]]))
        yield HeadStack(group, encoder)
