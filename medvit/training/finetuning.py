"""Supervised training of a model, keeping the weights of the best epoch on the validation images, or the last ones."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from medvit.files.atomic import write_weights
from medvit.hardware import resolve_device
from medvit.losses.deep_supervision import over_levels
from medvit.losses.partial_labels import as_annotated, marginal
from medvit.losses.supervised import Loss
from medvit.metrics.dice import METRIC as DICE
from medvit.metrics.dice import mean_dice, overlaps, region_overlaps
from medvit.models.image import Model
from medvit.models.slide import BagModel, WholeBag
from medvit.models.weight_average import WeightAverage
from medvit.records import IGNORED
from medvit.tasks import image_task
from medvit.training.lightning_module import TrainingModule
from medvit.training.optim import OptimConfig
from medvit.training.resume import BEST
from medvit.training.sharding import whole
from medvit.transforms.augmentation.mixing import MixingConfig, apply_mixture, draw_mixture
from medvit.transforms.components import keep_largest
from medvit.transforms.padding import pad_to_multiple
from medvit.transforms.regions import Regions
from medvit.types import Bags, Batch, RunLength

log = logging.getLogger("medvit")

BEST_METRIC = "best validation metric"
"""Figure of a training with the validation metric of the epoch whose weights are kept."""


class Finetuning(TrainingModule):
    """Model in training; its best weights so far are stored in `folder`.

    The best weights are those with the highest validation metric, `best_metric`. If the metric is undefined, as for
    images of only one class, the last epoch counts as the best. With `keep="last"` there is no validation, and the
    weights of the last step are kept. With `ema`, the decay of a moving average of the weights, the averaged weights
    are validated and kept. With `mixing`, the images of each training batch are mixed.
    """

    def __init__(
        self,
        model: Model | BagModel,
        loss: Loss,
        optim: OptimConfig,
        *,
        length: RunLength,
        seed: int,
        folder: Path,
        keep: Literal["best", "last"] = "best",
        ema: float | None = None,
        mixing: MixingConfig | None = None,
    ) -> None:
        super().__init__(optim, length=length, depth=model.depth, seed=seed)
        self.model, self.loss, self.keep, self.mixing = model, loss, keep, mixing
        self.peft = model.peft if isinstance(model, Model) else None
        self.average = None if ema is None else WeightAverage(model.adapter_state, ema)
        self.best_path = folder / BEST
        self.best_metric, self.best_step = float("-inf"), 0
        self._validated: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: Batch | Bags, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        terms = {"loss": self._loss(batch)}
        penalty = None if self.peft is None else self.peft.penalty()
        if penalty is not None:
            terms["penalty"] = penalty
        for name, value in terms.items():
            self.log(name, value.detach(), prog_bar=True)
        return self.finite(terms, batch)

    def _loss(self, batch: Batch | Bags) -> Tensor:
        assert batch.targets is not None
        if self.mixing is not None and isinstance(batch, Batch):
            return self._mixed_loss(self.mixing, batch.pixels, batch.targets)
        if isinstance(self.model, BagModel):
            return self.loss(self.model(*batch.inputs), batch.targets, self.progress)
        logits, padded = self.model.at_levels(*batch.inputs), batch.targets
        if isinstance(batch, Batch) and batch.annotated is not None:
            logits = [marginal(level, batch.annotated) for level in logits]
        if len(logits) > 1:
            padded = pad_to_multiple(batch.targets[:, None].float(), self.model.backbone.multiple)[:, 0]
        return over_levels(partial(self.loss, progress=self.progress), logits, batch.targets, padded)

    def _mixed_loss(self, mixing: MixingConfig, pixels: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of mixed images: the mean of the losses for both targets, weighted by their shares."""
        # From torch's generator, which each step seeds, so that a failed step can be repeated.
        generator = np.random.default_rng(int(torch.randint(2**31, ())))
        mixture = draw_mixture(mixing, tuple(pixels.shape[2:]), generator)
        assert mixture is not None
        logits = self.model(apply_mixture(pixels, mixture))
        own, other = (self.loss(logits, each, self.progress) for each in (targets, targets.flip(0)))
        return mixture.share * own + (1.0 - mixture.share) * other

    def on_train_start(self) -> None:
        """Prepare the fine-tuning method for the number of steps."""
        if self.peft is not None:
            self.peft.begin(self.num_steps)

    def after_step(self) -> None:
        """Let the fine-tuning method adjust its adapter, and add the weights to their average."""
        if self.peft is not None:
            self.peft.after_step(self.global_step + 1)
        if self.average is not None:
            self.average.update(self.global_step + 1)

    def on_validation_start(self) -> None:
        """Use the averaged weights, if there are any, until the end of the validation."""
        if self.average is not None:
            self.average.swap()

    def validation_step(self, batch: Batch | WholeBag, batch_idx: int) -> None:
        """Add the predictions for a batch to the predictions from which the metric of the epoch is computed."""
        assert batch.targets is not None
        predictions = self.model.predict(*batch.inputs)
        if self.model.config.kind == "segmentation":
            assert isinstance(batch, Batch)
            found, regions = self.model.label_map(predictions), self.model.config.region_map
            counts = _counted_overlaps(batch, found, self.model.config.classes, regions)
            self._validated.append((counts.cpu(), torch.zeros(0)))
        else:
            self._validated.append((predictions.cpu(), batch.targets.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Compute the metric of the epoch and keep the weights if it is the best."""
        name, scores = self.metric_name, self._scores()
        metric = scores[name]
        self._validated.clear()
        for key, score in scores.items():
            self.log(key, score, prog_bar=key == name, sync_dist=True)
        if math.isnan(metric):
            if not self.best_step:
                log.warning(
                    "%s is undefined on images of one class or value; the last epoch is kept",
                    name,
                )
            self.best_step = self.global_step
            self._keep()
        elif metric > self.best_metric:
            self.best_metric, self.best_step = metric, self.global_step
            self._keep()
        if self.average is not None:
            self.average.swap()

    def _keep(self) -> None:
        adapter = whole(self.model.adapter_state())
        if not self.trainer.is_global_zero:
            return
        write_weights(self.best_path, adapter)

    def figures(self) -> dict[str, float]:
        """Return the last value of every metric, and the values of the epoch whose weights are kept."""
        if self.keep == "last":
            return super().figures()
        best = {BEST_METRIC: self.best_metric} if math.isfinite(self.best_metric) else {}
        return super().figures() | best | {"step of the kept epoch": self.best_step}

    def best_epoch(self) -> dict[str, float]:
        """Return the metric and the step of the epoch whose weights are kept, for MLflow."""
        if self.keep == "last":
            return {}
        best = {f"best.{self.metric_name}": self.best_metric} if math.isfinite(self.best_metric) else {}
        return best | {"best.step": float(self.best_step)}

    def outcome(self) -> dict[str, str]:
        """Return the best validation metric and its epoch."""
        if self.keep == "last":
            return {"kept": "the weights of the last step" if self.average is None else "the averaged weights"}
        name, best = self.metric_name, self.best_metric
        text = f"{name} {best:.3f}" if math.isfinite(best) else f"{name} is undefined, the last epoch is kept"
        return {"best": f"{text}, {self.epoch_of(self.best_step)}"}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the best epoch, and the state of the fine-tuning method."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["peft"] = {} if self.peft is None else self.peft.progress()
        checkpoint["best"] = [self.best_metric, self.best_step]
        if self.average is not None:
            checkpoint["average"] = self.average.state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the best epoch, and the state of the fine-tuning method."""
        super().on_load_checkpoint(checkpoint)
        if self.peft is not None and checkpoint.get("peft"):  # earlier versions stored none
            self.peft.resume(checkpoint["peft"])
        self.best_metric, self.best_step = checkpoint["best"][0], int(checkpoint["best"][1])
        if self.average is not None:
            self.average.state = dict(checkpoint["average"])

    def restore_best(self) -> None:
        """Load the weights of the best epoch into the model, unless the last ones or their average are kept."""
        if self.keep == "last":
            if self.average is not None:
                self.average.swap()
            return
        self.model.load_state_dict(load_file(self.best_path), strict=False)

    @property
    def metric_name(self) -> str:
        """Validation metric that selects the best epoch."""
        config = self.model.config
        return f"val_{DICE.key() if config.kind == 'segmentation' else image_task(config.image_task).metric}"

    def _scores(self) -> dict[str, float]:
        """Return metrics of the images validated so far: the one that selects the best epoch, and others to log."""
        first, second = zip(*self._validated, strict=True)
        config = self.model.config
        if config.kind == "segmentation":
            return {self.metric_name: mean_dice(*torch.cat(first).unbind(dim=1))}
        task, truth = image_task(config.image_task), torch.cat(second).numpy()
        scores = task.scores(truth, torch.cat(first).numpy(), config.target)
        return {f"val_{name}": score for name, score in scores.items()}


def choose_largest_components(model: Model, validation: Iterable[Batch]) -> tuple[str, ...]:
    """Return the classes whose Dice on validation images rises if only their largest component is kept.

    Dice is the mean over the images in which the class is present or predicted.
    """
    return raised_by_largest(component_overlaps(model, validation), model.config.classes)


def mean_of_best(metric: str, figures: Mapping[str, float]) -> dict[str, float]:
    """Return the mean of the best validation metrics of several models, given the figures of all; empty without any."""
    found = [value for name, value in figures.items() if name.endswith(BEST_METRIC)]
    return {f"best.{metric}": sum(found) / len(found)} if found else {}


def component_overlaps(model: Model, validation: Iterable[Batch]) -> Tensor:
    """Return the overlaps of predicted and true masks on validation images, twice.

    The first axis has two entries: the overlaps of complete predicted masks, and the overlaps after only the largest
    component of each class is kept. The second axis is that of the images.
    """
    device, classes = resolve_device("auto"), model.config.classes
    model.eval().to(device)
    before, after = [], []
    for batch in validation:
        found = model.predict(batch.pixels.to(device)).argmax(dim=1).cpu()
        largest = [torch.from_numpy(keep_largest(mask.numpy(), range(1, len(classes)))) for mask in found]
        before.append(_counted_overlaps(batch.to("cpu"), found, classes))
        after.append(_counted_overlaps(batch.to("cpu"), torch.stack(largest), classes))
    model.cpu()
    return torch.stack([torch.cat(before), torch.cat(after)])


def raised_by_largest(counted: Tensor, classes: Sequence[str]) -> tuple[str, ...]:
    """Return the classes whose Dice is higher with only the largest component, given `component_overlaps`."""
    return tuple(
        name
        for index, name in enumerate(classes[1:])
        if mean_dice(*counted[1, ..., index].unbind(dim=1)) > mean_dice(*counted[0, ..., index].unbind(dim=1))
    )


def _counted_overlaps(batch: Batch, found: Tensor, classes: Sequence[str], regions: Regions | None = None) -> Tensor:
    """Return the overlaps of masks by class or region, without ignored pixels and classes that are not annotated."""
    truth = batch.targets
    assert truth is not None
    if batch.annotated is not None:
        found = as_annotated(found, batch.annotated)
    if len(classes) <= IGNORED:
        found = found.where(truth != IGNORED, IGNORED)
    if regions is not None:
        return region_overlaps(truth, found, regions.members)
    return overlaps(truth, found, len(classes))
