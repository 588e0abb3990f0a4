"""Inference with several checkpoints on one backbone: an image is prepared and encoded once where they agree."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from medvit.artifacts import Checkpoint
from medvit.errors import MedvitError, NonFiniteError
from medvit.hardware import Device, resolve_device
from medvit.inference.predictor import as_prediction, calibrated, joined, parts_of, precision_on, with_set
from medvit.models.stack import Stack
from medvit.survival import require_horizons
from medvit.transforms.preprocess import Prepared, Preprocess
from medvit.types import Image, Prediction

if TYPE_CHECKING:
    from medvit.models.image import ModelConfig

PredictionOrError = Prediction | MedvitError
"""Prediction of a model for an image, or the error that prevented the prediction."""


class StackPredictor:
    """Models on one backbone, keyed by name, with the preprocessing of their checkpoints.

    The predictions equal those that a `Predictor` of each checkpoint makes. Checkpoints are loaded by
    `Checkpoint.load_adapter`.

    Raises:
        CheckpointError: If the checkpoints do not share one backbone, or the backbone is not found.
        ConfigError: If a GPU is requested but not available, or a horizon is after the last time that a model predicts.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, Checkpoint],
        device: Device = "auto",
        horizons: Sequence[float] = (),
        *,
        keeps_probabilities: bool = False,
    ) -> None:
        self.keeps_probabilities = keeps_probabilities
        self.device = resolve_device(device)
        inputs = {name: reading_of(checkpoint) for name, checkpoint in checkpoints.items()}
        prepared = {
            name: json.dumps([one.preprocess, one.model.get("slices")], sort_keys=True)
            for name, one in checkpoints.items()
        }
        self.stack = Stack.of(checkpoints, {name: inputs[name] + prepared[name] for name in checkpoints}, self.device)
        self.configs: Mapping[str, ModelConfig] = {name: model.config for name, model in self.stack.models.items()}
        of_survival = [config for config in self.configs.values() if config.kind == "survival"]
        for config in of_survival or list(self.configs.values())[:1]:
            require_horizons(horizons, config.kind, config.classes)
        self.horizons = tuple(horizons)
        """Times at which survival probabilities are predicted; empty: the ends of each model's time intervals."""
        self._preprocess = {
            name: Preprocess.parse_saved(one.preprocess, source=str(one.folder)) for name, one in checkpoints.items()
        }
        self._alike: dict[str, list[str]] = {}
        """Names of the models, grouped by equal preprocessing and slices."""
        for name, text in prepared.items():
            self._alike.setdefault(text, []).append(name)

    def __call__(self, image: Image, names: Collection[str]) -> dict[str, PredictionOrError]:
        """Return the predictions of some models for an image, keyed by name; for a model that fails, its error."""
        found: dict[str, PredictionOrError] = {}
        for alike in self._alike.values():
            wanted = [name for name in alike if name in names]
            if wanted:
                found |= self._predicted(image, wanted)
        return found

    def _predicted(self, image: Image, names: list[str]) -> dict[str, PredictionOrError]:
        """Return the predictions of models with the same preprocessing and slices."""
        preprocess, slices = self._preprocess[names[0]], self.configs[names[0]].slices
        parts: dict[str, list[Prediction]] = {name: [] for name in names}
        failed: dict[str, PredictionOrError] = {}
        try:
            preprocess.require_finite(image)
            for part in parts_of(image, slices):
                prepared = preprocess.prepared(part)
                for name, one in self._outcomes(part, prepared, names).items():
                    if isinstance(one, Prediction):
                        parts[name].append(one)
                    else:
                        failed[name] = one
        except MedvitError as error:
            return dict.fromkeys(names, error)
        done = [name for name in names if name not in failed]
        whole = {name: joined(self.configs[name], parts[name], image, self.horizons) for name in done}
        return failed | {
            name: with_set(self.configs[name], calibrated(self.configs[name], one)) for name, one in whole.items()
        }

    def _outcomes(self, part: Image, prepared: Prepared, names: list[str]) -> dict[str, PredictionOrError]:
        with precision_on(self.device), torch.no_grad():
            predicted = self.stack.predict(names, prepared.pixels[None].to(self.device))
        found: dict[str, PredictionOrError] = {}
        for name in names:
            try:
                found[name] = as_prediction(
                    self.configs[name], predicted[name][0].float(), part, prepared, self.keeps_probabilities
                )
            except NonFiniteError as error:
                found[name] = error
        return found


def reading_of(checkpoint: Checkpoint) -> str:
    """Return a text that is the same for models that read the same series with the same pixel values."""
    return json.dumps([checkpoint.model.get(key) for key in ("applies_to", "values")], sort_keys=True)
