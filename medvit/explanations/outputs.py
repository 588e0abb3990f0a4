"""The number of a model that a map explains: one output, as log-odds where it is a probability."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from medvit.errors import ConfigError
from medvit.models.image import Model, ModelConfig, covering_windows
from medvit.tasks import OF_CLASSES, image_task, is_image_task
from medvit.transforms.padding import pad_about
from medvit.types import Prediction


@dataclass(frozen=True)
class ExplainedOutput:
    """Output of a model to explain: its index among the predicted numbers, and its name."""

    index: int
    name: str
    region: Bool[Tensor, "*s"] | None = None
    """Pixels over which the output of a segmentation is averaged, on the grid of the preprocessed image."""


def chosen_output(config: ModelConfig, prediction: Prediction, wanted: str = "") -> ExplainedOutput:
    """Return the output named `wanted`; if it is empty, the predicted class or the only number.

    Of several labels, the default is the most probable one; of a survival prediction, the last time; of a segmentation,
    the largest predicted class.

    Raises:
        ConfigError: If the model has no such output.
    """
    names = list(config.classes)
    if wanted:
        return output_named(wanted, names, names[1:] if config.kind == "segmentation" else names)
    if config.kind == "segmentation":
        assert prediction.mask is not None, "a segmentation predicts a label map"
        sizes = [int((prediction.mask == label).sum()) for label in range(1, len(names))]
        index = 1 + max(range(len(sizes)), key=sizes.__getitem__)
    elif config.kind in (*OF_CLASSES, "multilabel"):
        assert prediction.probabilities is not None, "a classification predicts probabilities"
        index = int(prediction.probabilities.argmax())
    else:
        index = len(names) - 1 if config.kind == "survival" else 0
    return ExplainedOutput(index, names[index])


def output_named(wanted: str, names: Sequence[str], explained: Sequence[str]) -> ExplainedOutput:
    """Return the output with a name, one of those that can be explained.

    Raises:
        ConfigError: If there is no such output.
    """
    if wanted not in explained:
        raise ConfigError(f"target={wanted}: the model does not predict it; give one of {', '.join(explained)}")
    return ExplainedOutput(list(names).index(wanted), wanted)


def with_region(model: Model, pixels: Float[Tensor, "1 c *s"], output: ExplainedOutput) -> ExplainedOutput:
    """Return the output of a segmentation with the pixels that are predicted as its class, or with all of them.

    Outputs of other tasks are unchanged.

    Raises:
        ConfigError: If the model predicts regions, which are not supported.
    """
    if is_image_task(model.config.kind):
        return output
    if model.config.regions:
        raise ConfigError("medvit explain does not support segmentations of regions; it supports those of classes")
    with torch.no_grad():
        region = model.predict(pixels)[0].argmax(dim=0) == output.index
    return ExplainedOutput(output.index, output.name, region if region.any() else torch.ones_like(region))


def output_score(model: Model, pixels: Float[Tensor, "b c *s"], output: ExplainedOutput) -> Float[Tensor, "b"]:
    """Return the explained number for each image of a batch, with gradients.

    For classes and labels, it is the log-odds, ln(p / (1 - p)); for a segmentation, the mean log-odds over the region;
    for other tasks, the predicted number. An image larger than the training crops has the mean over the crops that
    cover it.
    """
    if output.region is not None:
        odds = log_odds(model(pixels).float(), output.index)
        return odds[:, output.region].mean(dim=1)
    scores = [_of_crop(model, crop, output.index) for crop in crops_of(model, pixels)]
    return torch.stack(scores).mean(dim=0)


def crops_of(model: Model, pixels: Float[Tensor, "b c *s"]) -> Iterator[Float[Tensor, "b c *r"]]:
    """Yield the parts of images that the model predicts one by one; their predictions are averaged."""
    padded = pixels if model.config.roi is None else pad_about(pixels, model.config.roi)[0]
    for window in crop_indices(model, pixels):
        yield padded[window]


def crop_indices(model: Model, pixels: Float[Tensor, "b c *s"]) -> list[tuple[Any, ...]]:
    """Return the indices of these parts in the images, after padding to at least the size of a training crop."""
    if model.config.roi is None:
        return [(...,)]
    return list(
        covering_windows(pad_about(pixels, model.config.roi)[0].shape[2:], model.config.roi, model.config.overlap)
    )


def shown_value(config: ModelConfig, score: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Return scores as a reader expects them: probabilities instead of log-odds."""
    is_odds = config.kind in (*OF_CLASSES, "multilabel", "segmentation")
    return score.sigmoid() if is_odds else score


def log_odds(logits: Float[Tensor, "b l *s"], index: int) -> Float[Tensor, "b *s"]:
    """Return the log-odds, ln(p / (1 - p)), of a class of a classification."""
    others = logits.clone()
    others[:, index] = -math.inf
    return logits[:, index] - others.logsumexp(dim=1)


def _of_crop(model: Model, crop: Float[Tensor, "b c *r"], index: int) -> Float[Tensor, "b"]:
    logits, config = model(crop).float(), model.config
    if config.kind == "classification":
        return log_odds(logits, index)
    if config.kind == "multilabel":
        return logits[:, index]
    found = image_task(config.kind).predictions(logits, config.target)[:, index]
    if config.kind != "ordinal":
        return found
    found = found.clamp(1e-6, 1.0 - 1e-6)
    return found.log() - (1.0 - found).log()
