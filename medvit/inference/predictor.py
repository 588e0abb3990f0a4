"""Inference with a checkpoint: predicts on the grid of the given image."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array

from medvit.artifacts import Checkpoint
from medvit.dataset.slices import SlicesConfig, across_of, slices_of, stacked
from medvit.errors import ConfigError, MemoryShortError, NonFiniteError
from medvit.hardware import Device, half_precision, resolve_device
from medvit.inference.dropout_passes import DropoutPasses
from medvit.inference.memory.effort import Effort, allows_bricks, efforts, is_out_of_memory
from medvit.metrics.confusion import median_grade
from medvit.models.disagreement import TASKS as SPREAD_TASKS
from medvit.models.disagreement import Disagreement
from medvit.records import Kind
from medvit.survival import (
    median_time,
    require_horizons,
    restricted_means,
    survival_at,
    survival_names,
    survival_times,
    time_text,
)
from medvit.tasks import Target, TaskName, is_image_task
from medvit.transforms.regions import PRESENT, Regions
from medvit.types import Image, Prediction, PredictionSet

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from medvit.models.image import Model, ModelConfig
    from medvit.transforms.preprocess import Prepared

log = logging.getLogger("medvit")


class Predictor:
    """Model with the preprocessing of its checkpoint, loaded once.

    `patch_size` is used instead of the usual patch size, if the model was trained with several. With
    `keeps_probabilities`, segmentations also have the probabilities of each voxel. With `mc_dropout`, the `members` of
    a prediction are this number of passes with dropout; the prediction itself is the same.

    >>> import medvit
    >>> predictor = medvit.Predictor(medvit.Checkpoint.load("runs/model"), device="cpu")
    >>> predictor.kind, predictor.config.classes
    ('volume', ('background', 'liver', 'spleen', 'kidney'))
    >>> prediction = predictor(medvit.read("new-studies/study-0", values=predictor.config.values))

    Raises:
        CheckpointError: If the checkpoint is a bare backbone or does not fit its description.
        ConfigError: If a GPU is requested but not available, a horizon is after the last time of the model, or a patch
            size is requested that the model does not support, or passes with dropout of a model without dropout.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: Device = "auto",
        horizons: Sequence[float] = (),
        *,
        patch_size: int | tuple[int, ...] | None = None,
        keeps_probabilities: bool = False,
        mc_dropout: int = 0,
    ) -> None:
        from medvit.models.ensemble import load_model
        from medvit.transforms.preprocess import Preprocess

        self.device = resolve_device(device)
        self.preprocess = Preprocess.parse_saved(checkpoint.preprocess, source=str(checkpoint.folder))
        self.model = load_model(checkpoint).to(self.device)
        self.config = self.model.config
        require_horizons(horizons, self.config.kind, self.config.classes)
        self.horizons = tuple(horizons)
        """Times at which survival is predicted; empty: the ends of the model's time intervals."""
        self.keeps_probabilities = keeps_probabilities
        if patch_size is not None:
            self._use_patch_size(patch_size)
        if mc_dropout and self.config.conformal is not None and self.config.conformal.method == "normalized":
            raise ConfigError(
                "the intervals of this model are scaled by the spread of its ensemble, which passes with dropout would "
                "replace; leave mc_dropout unset"
            )
        self._dropout = DropoutPasses.of(self.model, self.config.kind, mc_dropout) if mc_dropout else None

    def _use_patch_size(self, size: int | tuple[int, ...]) -> None:
        from medvit.backbones import Backbone

        backbones = [module for module in self.model.modules() if isinstance(module, Backbone) and module.patch_sizes]
        if not backbones:
            raise ConfigError(
                f"found patch_size={size}, but the model was trained with patches of one size; leave patch_size unset, "
                "or train with backbone.patch_sizes"
            )
        for backbone in backbones:
            backbone.use_patch_size(size)

    @property
    def kind(self) -> Kind:
        """Kind of image that the model accepts.

        For a model that was trained on slices, this is `volume`, because it is applied to all slices of a volume.
        """
        return "volume" if self.config.slices is not None else self.preprocess.kind

    def __call__(self, image: Image) -> Prediction:
        """Return the prediction for an image: probabilities (L,), a number, or a label map on the grid of the image.

        A model of slices predicts every slice of a volume. The result is the mean of the probabilities or numbers of
        the slices, or their label maps stacked to a volume.

        Raises:
            DataError: If the model does not accept the image, or its output is non-finite.
            MemoryShortError: If the image needs more memory than is free.
        """
        self.preprocess.require_finite(image)
        parts = parts_of(image, self.config.slices)
        found = [self._predicted(part, self.preprocess.prepared(part)) for part in parts]
        return with_set(self.config, calibrated(self.config, joined(self.config, found, image, self.horizons)))

    def _predicted(self, part: Image, prepared: Prepared) -> Prediction:
        """Return the prediction for an image or slice, with less memory if there is too little of it."""
        from medvit.models.image import Model, num_outputs

        model = self.model if isinstance(self.model, Model) and self.config.kind == "segmentation" else None
        can_split = allows_bricks(self.config, keeps_probabilities=self.keeps_probabilities)
        for effort in efforts(model, prepared.pixels[0].numel(), num_outputs(self.config), allows_bricks=can_split):
            try:
                one = self._with_effort(part, prepared, effort, model)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                log.warning("predict: memory is short (%s); trying to use less", type(error).__name__)
            else:
                return replace(one, notes=(*one.notes, effort.note)) if effort.note else one
            release_memory()
        raise MemoryShortError(
            "the image needs more memory than is free; free memory, set device=cpu, or use a computer with more"
        )

    def _with_effort(self, part: Image, prepared: Prepared, effort: Effort, model: Model | None) -> Prediction:
        pixels = prepared.pixels[None].to(self.device)
        if model is not None:
            model.windows_at_once = effort.windows_at_once
        with precision_on(self.device):
            if effort.by_bricks:
                assert model is not None
                return self._by_bricks(part, pixels, effort, model)
            predicted, members = self._outputs(pixels)
        one = as_prediction(self.config, predicted, part, prepared, self.keeps_probabilities)
        return one if members is None else replace(one, members=members)

    def _by_bricks(self, part: Image, pixels: Float[Tensor, "1 c *s"], effort: Effort, model: Model) -> Prediction:
        from medvit.inference.memory.bricks import label_map_by_bricks

        config, regions = self.config, self.config.region_map
        roi = effort.roi or config.roi
        assert roi is not None
        on_grid = mask_on_grid if regions is None else partial(regions_on_grid, regions=regions)
        shape = part.pixels.shape[1:]
        mask = label_map_by_bricks(model, pixels, shape, on_grid, roi=roi, windows_at_once=effort.windows_at_once)
        return Prediction(config.classes, mask=cleaned(config, mask), affine=part.affine)

    def _outputs(self, pixels: Float[Tensor, "1 c *s"]) -> tuple[Float[Tensor, "l *t"], Float[Array, "m l"] | None]:
        """Return the output of the model and those of its members, if these are several and their task has a spread."""
        from medvit.models.ensemble import Ensemble

        model = self.model
        is_ensemble = isinstance(model, Ensemble) and len(model.active) > 1
        if self._dropout is not None:
            return model.predict(pixels)[0].float(), self._dropout(pixels)
        if not is_ensemble or self.config.kind not in SPREAD_TASKS:
            return model.predict(pixels)[0].float(), None
        assert isinstance(model, Ensemble)
        each = [found[0].float() for found in model.predict_each(pixels)]
        return sum(each[1:], start=each[0]) / len(each), np.stack([one.cpu().numpy() for one in each])


def parts_of(image: Image, slices: SlicesConfig | None) -> list[Image]:
    """Return the slices of a volume that a model of slices predicts one by one, or the image itself."""
    return [image] if slices is None or image.kind != "volume" else list(slices_of(image, slices))


def as_prediction(
    config: ModelConfig,
    found: Float[Tensor, "l *s"],
    image: Image,
    prepared: Prepared,
    keeps_probabilities: bool = False,
) -> Prediction:
    """Return the output of a model for an image or slice as a prediction; a mask is on the grid of the image.

    Probabilities of voxels are kept on request, except those of overlapping regions, which are not those of classes.

    Raises:
        NonFiniteError: If the output is not finite.
    """
    import torch

    # A logit that is NaN or +inf makes its probabilities NaN, and comparisons with NaN would give the background.
    num_lost = int((~torch.isfinite(found)).sum())
    if num_lost:
        what = "numbers" if config.kind in ("multitask", "regression") else "probabilities"
        raise NonFiniteError(
            f"{num_lost} of {found.numel()} predicted {what} are not finite; expected finite "
            "ones: check that the intensities of the image are like those of the training images"
        )
    if is_image_task(config.kind):
        return prediction_of(config.kind, config.target, found.cpu().numpy())
    shape, crop = image.pixels.shape[1:], prepared.crop
    grid, regions = shape if crop is None else (crop.side, crop.side), config.region_map
    mask = mask_on_grid(found, grid) if regions is None else regions_on_grid(found, grid, regions)
    mask = mask if crop is None else crop.back(mask, shape)  # outside of the field of view is background
    mask = cleaned(config, mask)
    kept = None
    if keeps_probabilities and regions is None:
        kept = np.stack([np.rint(255 * one.cpu().numpy()).astype(np.uint8) for one in _each_on_grid(found[1:], grid)])
        kept = kept if crop is None else crop.back(kept, shape)
    return Prediction(config.classes, mask=mask, affine=image.affine, voxel_probabilities=kept)


def cleaned(config: ModelConfig, mask: Int[Array, "*s"]) -> Int[Array, "*s"]:
    """Return a label map with only the largest component of some classes, as the model demands."""
    from medvit.transforms.components import keep_largest

    return keep_largest(mask, [config.classes.index(name) for name in config.largest_components])


def joined(
    config: ModelConfig, found: Sequence[Prediction], image: Image, horizons: Sequence[float] = ()
) -> Prediction:
    """Join the predictions for the parts of an image into one: the mean of numbers, or the stacked label maps.

    A survival curve is returned at the horizons, if there are any, with its mean and median.
    """
    if config.kind == "survival":
        curve = np.mean([numbers_of(one) for one in found], axis=0)
        return survival_prediction(config.label, config.classes, curve, horizons)
    if config.slices is None or image.kind != "volume":
        (whole,) = found
        return whole
    if is_image_task(config.kind):
        numbers = np.mean([numbers_of(one) for one in found], axis=0)
        members = [one.members for one in found if one.members is not None]
        whole = prediction_of(config.kind, config.target, numbers)
        return replace(whole, members=np.mean(members, axis=0)) if members else whole
    masks = [one.mask for one in found if one.mask is not None]
    across = across_of(image, config.slices)
    kept = [one.voxel_probabilities for one in found if one.voxel_probabilities is not None]
    volumes = [stacked(slices, across) for slices in zip(*kept, strict=True)]
    return Prediction(
        config.classes,
        mask=stacked(masks, across),
        affine=image.affine,
        voxel_probabilities=np.stack(volumes) if volumes else None,
    )


def calibrated(config: ModelConfig, prediction: Prediction) -> Prediction:
    """Return a prediction with the calibration of the model, if it has one."""
    if config.calibration is None or prediction.probabilities is None:
        return prediction
    (numbers,) = config.calibration.apply(config.kind, prediction.probabilities[None])
    return replace(prediction_of(config.kind, config.target, numbers), members=prediction.members)


def with_set(config: ModelConfig, prediction: Prediction) -> Prediction:
    """Return a prediction with its prediction set or interval, if the model has conformal prediction."""
    conformal = config.conformal
    if conformal is None:
        return prediction
    if prediction.value is not None:
        spread = None if prediction.members is None else Disagreement.of(config.kind, prediction.members).spread
        spreads = None if spread is None else np.array([spread])
        ((low, high),) = conformal.intervals(np.array([prediction.value]), spreads).tolist()
        return replace(prediction, prediction_set=PredictionSet(conformal.coverage, interval=(low, high)))
    assert prediction.probabilities is not None, "conformal prediction is for classes and numbers"
    of_classes = conformal.label_sets if config.kind == "multilabel" else conformal.sets
    (is_in,) = of_classes(prediction.probabilities[None])
    return replace(prediction, prediction_set=PredictionSet(conformal.coverage, is_in))


def prediction_of(task: TaskName, target: Target, numbers: Float[Array, "l"]) -> Prediction:
    """Return the prediction of a model with one result for each image, from the numbers that it predicts."""
    if target.parts:
        parts = {part.target.label: (part, numbers[target.spans[part.target.label]]) for part in target.parts}
        found = {label: prediction_of(part.task, part.target, own) for label, (part, own) in parts.items()}
        return Prediction(target.classes, by_label=found)
    if task == "regression":
        return Prediction(target.classes, value=float(numbers[0]))
    if task == "ordinal":
        grade = int(target.classes[int(median_grade(numbers[None])[0])])
        return Prediction(target.classes, probabilities=numbers, grades={target.label: grade})
    return Prediction(target.classes, probabilities=numbers)


def numbers_of(prediction: Prediction) -> Float[Array, "l"]:
    """Return the probabilities or the number of a prediction as an array; for several labels, one after the other."""
    if prediction.by_label:
        return np.concatenate([numbers_of(one) for one in prediction.by_label.values()])
    return np.array([prediction.value]) if prediction.probabilities is None else prediction.probabilities


def survival_prediction(
    label: str, names: Sequence[str], curve: Float[Array, "l"], horizons: Sequence[float]
) -> Prediction:
    """Return the prediction of a survival curve, at the horizons if there are any, with its mean and median."""
    times = survival_times(names)
    means, median = restricted_means(times, curve[None]), median_time(times, curve)
    derived = {f"mean {label} up to {time_text(times[-1])}": float(means[0])}
    derived |= {} if median is None else {f"median {label}": median}
    if not horizons:
        return Prediction(tuple(names), probabilities=curve, times=derived)
    shown = survival_at(times, curve[None], horizons)[0].astype(np.float32)
    return Prediction(survival_names(label, horizons), probabilities=shown, times=derived)


def mask_on_grid(probabilities: Float[Tensor, "l *s"], shape: tuple[int, ...]) -> Int[Array, "*t"]:
    """Return the most probable class of each voxel of a grid of another size over the same field of view.

    Preprocessing changes the number of voxels but not the outer faces of the grid (`geometry.rescaled`); linear
    interpolation with `align_corners=False` reverses this. Classes are processed one by one, which takes memory for two
    volumes of the target size instead of one per class.
    """
    import torch

    best = torch.full(shape, -torch.inf, device=probabilities.device)
    mask = torch.zeros(shape, dtype=torch.uint8 if len(probabilities) <= 256 else torch.int32, device=best.device)
    for label, probability in enumerate(_each_on_grid(probabilities, shape)):
        wins = probability > best
        mask[wins] = label
        best = torch.where(wins, probability, best)
    return np.asarray(mask.cpu().numpy())


def regions_on_grid(probabilities: Float[Tensor, "r *s"], shape: tuple[int, ...], regions: Regions) -> Int[Array, "*t"]:
    """Return the label map of the probabilities of regions on a grid of another size, as `mask_on_grid` does."""
    mask = np.zeros(shape, dtype=np.min_scalar_type(max(regions.written)))
    for label, probability in zip(regions.written, _each_on_grid(probabilities, shape), strict=True):
        mask[(probability > PRESENT).cpu().numpy()] = label
    return mask


def _each_on_grid(probabilities: Float[Tensor, "l *s"], shape: tuple[int, ...]) -> Iterator[Float[Tensor, "*t"]]:
    """Yield the probabilities of each class or region, interpolated to a grid over the same field of view."""
    from torch.nn import functional as F

    same = tuple(probabilities.shape[1:]) == tuple(shape)
    mode = "trilinear" if len(shape) == 3 else "bilinear"
    for probability in probabilities:
        if same:
            yield probability
        else:
            yield F.interpolate(probability[None, None], size=shape, mode=mode, align_corners=False)[0, 0]


def release_memory() -> None:
    """Release memory that is no longer used, also that which torch keeps on a GPU."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def precision_on(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which the model computes in the 16-bit type that is fast on the device, as in training.

    On a device without such a type, the model computes in 32 bits.
    """
    import torch

    dtype = half_precision(device)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)
