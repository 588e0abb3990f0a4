"""Model for a task: backbone, adaptation, and head."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, get_args

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from medvit.artifacts import Checkpoint
from medvit.backbones import Backbone, BackboneChoice
from medvit.config import Axis, Config, Count, Positive, Tree
from medvit.dataset.slices import SlicesConfig
from medvit.errors import CheckpointError, ConfigError
from medvit.heads import Head, HeadChoice, of_earlier_version
from medvit.models.base import Base, complete
from medvit.models.calibration import Calibration
from medvit.models.conformal import Conformal
from medvit.peft import PeftChoice, train_new_channels
from medvit.readers.channels import ChannelsConfig
from medvit.readers.options import ValuesConfig
from medvit.records import Kind, Row
from medvit.tasks import LabelTarget, LabelTask, Target, TargetScale, TaskName, image_task, is_image_task
from medvit.transforms.padding import pad_about, pad_to_multiple
from medvit.transforms.regions import Regions
from medvit.types import Orientation, Tokens

WINDOWS_AT_ONCE = 2
"""Usual number of sliding windows that are computed together."""


class AppliesTo(Config):
    """Criteria by which `medvit predict` selects the series of a study."""

    modality: str | None = None
    """DICOM modality (0008,0060) of the series, such as CT or MR. Unset: the modality of the
    training images, if they have only one.
    """
    kind: Kind = "volume"
    """Kind of the series. If you do not set it, the kind of the training images replaces the default."""
    description: str | None = None
    """Regex to search for in SeriesDescription (0008,103E), ignoring case. Unset: all descriptions match."""
    orientation: Orientation | None = None
    """Direction of the planes of a DICOM series. Planes that are more than 37 degrees from every axis are oblique and
    match none. Unset: all directions match.
    """
    spacing_mm: tuple[Positive, Positive] | None = None
    """Lowest and highest distance of neighboring slices of a DICOM series, in mm. Unset: all distances match."""
    num_slices: tuple[Count, Count] | None = None
    """Lowest and highest number of slices of a DICOM series. Unset: all numbers match."""
    body_part: str | None = None
    """Regex to search for in BodyPartExamined (0018,0015), ignoring case. Unset: all body parts match."""
    contrast: bool | None = None
    """Whether the DICOM header states a contrast agent, in (0018,0010) or (0018,0012). Unset: both match."""
    channels: ChannelsConfig | None = None
    """Combination of separate images into one image with named channels. Unset: as in the training dataset."""


class Predicting(Protocol):
    """Part of the configuration of an image or slide model that concerns its task."""

    @property
    def image_task(self) -> TaskName:
        """Name of the task in `medvit.tasks` that defines targets and predictions."""
        ...

    @property
    def target(self) -> Target:
        """Target of the model: its label and classes."""
        ...


class ModelConfig(Config):
    """Configuration of a fine-tuned model, which its checkpoint stores and from which it can be rebuilt."""

    kind: TaskName
    """Task: a class or a number per image, or a class per voxel."""
    backbone: BackboneChoice
    """Vision transformer, or network of timm or MONAI."""
    peft: PeftChoice
    """Adaptation of the backbone in fine-tuning."""
    head: HeadChoice
    """Head, which maps tokens to logits."""
    classes: tuple[str, ...]
    """Class names in the order of the logits. segmentation: the first one is the background. regression: only the name
    of the label. multilabel: the names of the labels. multitask: `LABEL.CLASS` for each class of a label, `LABEL` for a
    number. survival: `LABEL > TIME` for each predicted probability.
    """
    label: str = ""
    """Key of the manifest's labels that is predicted; empty for a segmentation and for several labels."""
    scales: tuple[TargetScale, ...] = ()
    """Standardization of the targets of a regression, for each model of an ensemble. For a multi-task model: of each
    label that is a number; in an ensemble, first those of the first model, then those of the next.
    """
    pairs: tuple[tuple[str, str], ...] = ()
    """Negative and positive class of each label of a multi-label classification."""
    event: str = ""
    """Label of the event of a survival prediction."""
    intervals: tuple[tuple[float, ...], ...] = ()
    """Ends of the time intervals of a survival prediction, for each model of an ensemble."""
    tasks: tuple[LabelTask, ...] = ()
    """Labels of a multi-task model, each with its own task and head."""
    positive: str = ""
    """Positive one of two classes, to which sensitivity and specificity refer; empty if not given."""
    roi: tuple[Count, ...] | None = None
    """Size of the sliding window in pixels or voxels, as in training. Unset: the whole image."""
    overlap: float = Field(default=0.5, ge=0.0, lt=1.0)
    """Overlap of neighboring sliding windows, as a fraction of the window."""
    mirrored_axes: tuple[Axis, ...] = ()
    """Spatial axes along which the input is mirrored, in all combinations; the predictions are averaged."""
    turned_axes: tuple[Axis, Axis] | None = None
    """Two spatial axes; the input is also turned in their plane by 90, 180 and 270 degrees."""
    regions: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Classes in each region that a segmentation predicts. Empty: it predicts the classes."""
    regions_class_order: tuple[str, ...] = ()
    """Class that each region writes into the label map, over those of the regions before it."""
    largest_components: tuple[str, ...] = ()
    """Classes of which only the largest connected component of a predicted mask is kept, as chosen on the val split."""
    applies_to: AppliesTo = Field(default_factory=AppliesTo)
    """Series of a study that the model applies to."""
    values: ValuesConfig | None = None
    """Conversion of DICOM pixel values that was used in training. Unset: the model was made by a version that did not
    record it.
    """
    members: Count = 1
    """Number of models in the ensemble, whose predictions are averaged."""
    slices: SlicesConfig | None = None
    """Cutting of volumes into slices, which the model predicts one by one. None: a model of images or whole volumes."""
    base: Base | None = None
    """Backbone that the adapter and the head apply to. None: training changed all weights, or the backbone was not a
    checkpoint.
    """
    calibration: Calibration | None = None
    """Calibration of the predicted probabilities, added by `medvit calibrate`. None: as predicted by the network."""
    conformal: Conformal | None = None
    """Limits for prediction sets or intervals, added by `medvit conformal`. None: predictions have no sets."""

    @property
    def image_task(self) -> TaskName:
        """Name of the task in `medvit.tasks` that defines the targets and predictions of images."""
        return self.kind

    @property
    def region_map(self) -> Regions | None:
        """Regions that the model predicts; None if it predicts classes."""
        return Regions.of(self.regions, self.regions_class_order, self.classes) if self.regions else None

    @property
    def target(self) -> Target:
        """Target of the model, with the standardization or the time intervals of its only or first model."""
        if self.tasks:
            return Target("", self.classes, parts=self._parts)
        scale, ends = self.scales[0] if self.scales else None, self.intervals[0] if self.intervals else ()
        return Target(self.label, self.classes, scale, self.pairs, event=self.event, ends=ends)

    @property
    def _parts(self) -> tuple[LabelTarget, ...]:
        scales = iter(self.scales)
        return tuple(
            LabelTarget(
                one.task,
                Target(one.label, one.classes, next(scales) if one.task == "regression" else None),
                one.weight,
            )
            for one in self.tasks
        )


class Model(nn.Module):
    """Model from pixels (B, C, *S) to logits (B, L) or (B, L, *S)."""

    windows_at_once = WINDOWS_AT_ONCE
    """Number of sliding windows of a segmentation that are computed together."""

    def __init__(self, config: ModelConfig, backbone: Backbone) -> None:
        super().__init__()
        way = config.peft.recorded(backbone)
        way.require_supported(backbone)
        self.peft = config.peft.adapt(backbone)
        train_new_channels(self.peft.backbone)
        self.config = config.model_copy(update={"backbone": self.peft.described(config.backbone), "peft": way})
        self.backbone: Backbone = self.peft.backbone
        self.head = head_of(config, backbone)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> Model:
        """Return the model of a fine-tuned checkpoint, ready for inference.

        Raises:
            CheckpointError: If the checkpoint is only a backbone, if its weights do not match its description, or if it
                is an adapter whose backbone is not found.
        """
        checkpoint = complete(checkpoint.require(*get_args(TaskName)))
        config = ModelConfig.parse_saved(of_earlier_version(checkpoint.model), source=str(checkpoint.folder))
        merged = config.model_copy(update={"peft": _plain()})
        model = cls(merged, config.backbone.without_weights().build())
        _load(model, checkpoint.state, checkpoint)
        return model.eval().requires_grad_(False)

    def forward(self, pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b l *t"]:
        """Return logits; the input may have any size."""
        padded = self._padded(pixels)
        return cut(self.head(self.tokens(padded), self.backbone.filled(padded)), pixels)

    def at_levels(self, pixels: Float[Tensor, "b c *s"]) -> list[Float[Tensor, "b l *t"]]:
        """Return the logits, then the logits at lower resolutions that are also trained (deep supervision).

        Logits of lower resolutions cover the image padded to whole patches.
        """
        padded = self._padded(pixels)
        logits, *lower = self.head.at_levels(self.tokens(padded), self.backbone.filled(padded))
        return [cut(logits, pixels), *lower]

    @torch.no_grad()
    def predict(self, pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b l *t"]:
        """Return float32 predictions, using a sliding window, and mirrored and turned passes if configured.

        They are probabilities (of regions, if the model predicts regions) or, for a regression, numbers in the unit of
        the label. If an image with one result is larger than the training crops, its predictions are the mean over
        crops that cover it.
        """
        is_dense = self.config.kind == "segmentation"
        passes = []
        for axes, turns in itertools.product(self._mirrors(), range(4 if self.config.turned_axes else 1)):
            found = self._predictions(self._turned(pixels.flip(axes), turns))
            passes.append(self._turned(found, -turns).flip(axes) if is_dense else found)
        return torch.stack(passes).mean(dim=0) if len(passes) > 1 else passes[0]

    def label_map(self, predictions: Float[Tensor, "b l *s"]) -> Int[Tensor, "b *s"]:
        """Return the label map of the predictions of a segmentation."""
        regions = self.config.region_map
        return predictions.argmax(dim=1) if regions is None else regions.label_map(predictions)

    def keep_components(self, names: tuple[str, ...]) -> None:
        """Set the classes of which only the largest connected component is kept."""
        self.config = self.config.model_copy(update={"largest_components": names})

    @property
    def depth(self) -> int:
        """Number of blocks of the backbone, for layer-wise learning rates."""
        return self.backbone.depth

    @property
    def is_trained_whole(self) -> bool:
        """Whether training changes every weight, in which case no separate adapter is stored."""
        return all(weight.requires_grad for weight in self.parameters())

    def adapter_state(self) -> Tree:
        """Return the weights that training changes: the head, and all backbone weights that require a gradient."""
        if self.is_trained_whole:
            return dict(self.state_dict())  # with the statistics of batch norms
        trained = {name for name, weight in self.named_parameters() if weight.requires_grad}
        return {name: weight for name, weight in self.state_dict().items() if name in trained}

    def stored_adapter(self) -> Tree | None:
        """Return the adapter of a checkpoint: the trained weights, and tensors that they depend on.

        It is None if training changes every weight.
        """
        if self.is_trained_whole:
            return None
        prefix = "backbone."
        state = self.adapter_state() | {f"head.{name}": weight for name, weight in self.head.state_dict().items()}
        names = [name.removeprefix(prefix) for name in state if name.startswith(prefix)]
        return state | {f"{prefix}{name}": weight for name, weight in self.peft.state_of(names).items()}

    def merged_state(self) -> Mapping[str, Tensor]:
        """Return all weights with the adapter merged; the model itself is unusable afterwards."""
        self.backbone = self.peft.merge()
        return self.state_dict()

    def _padded(self, pixels: Tensor) -> Tensor:
        """Return the input of the backbone: padded to whole patches and, in training, without hidden channels."""
        return self.backbone.sampled(pad_to_multiple(pixels, self.backbone.multiple))

    def tokens(self, padded: Float[Tensor, "b c *s"]) -> list[Tokens]:
        """Return the tokens that the head reads; the sides of the input must be multiples of the patch size."""
        depths = self.head.layers
        found = self.backbone.intermediate(padded, depths) if depths else [self.backbone(padded)]
        if self.config.kind != "segmentation" or not self.backbone.patch_sizes:
            return found
        # Decoders expect patches of the usual size.
        grid = tuple(-(-side // patch) for side, patch in zip(padded.shape[2:], self.backbone.patch_size, strict=True))
        return [on_grid(tokens, grid) for tokens in found]

    def _mirrors(self) -> Iterator[tuple[int, ...]]:
        plane = self.config.turned_axes or ()
        mirrored = self.config.mirrored_axes
        if plane and set(plane) <= set(mirrored):  # mirroring both is a turn by 180 degrees
            mirrored = tuple(axis for axis in mirrored if axis != plane[1])
        axes = [axis + 2 for axis in mirrored]
        for count in range(len(axes) + 1):
            yield from itertools.combinations(axes, count)

    def _turned(self, pixels: Tensor, turns: int) -> Tensor:
        plane = self.config.turned_axes
        return pixels if plane is None or not turns else pixels.rot90(turns, [axis + 2 for axis in plane])

    def _predictions(self, pixels: Tensor) -> Tensor:
        roi = self.config.roi
        if roi is None:
            return self.activated(self(pixels))
        padded, inside = pad_about(pixels, roi)
        if is_image_task(self.config.kind):
            return torch.stack(
                [
                    self.activated(self(padded[window]))
                    for window in covering_windows(padded.shape[2:], roi, self.config.overlap)
                ]
            ).mean(0)
        logits = self(padded).float() if padded.shape[2:] == tuple(roi) else self._slide(padded, roi)
        return self.activated(logits[inside])

    def activated(self, logits: Float[Tensor, "b l *s"]) -> Float[Tensor, "b l *s"]:
        """Return the float32 predictions of logits: probabilities or, for a regression, numbers."""
        config = self.config
        if not is_image_task(config.kind):
            return logits.float().sigmoid() if config.regions else logits.float().softmax(dim=1)
        return image_task(config.kind).predictions(logits, config.target)

    def _slide(self, pixels: Tensor, roi: tuple[int, ...]) -> Tensor:
        from monai.inferers.utils import sliding_window_inference

        logits = sliding_window_inference(
            pixels,
            roi,
            sw_batch_size=self.windows_at_once,
            predictor=lambda crops: self(crops).float(),
            overlap=self.config.overlap,
            mode="gaussian",
        )
        assert isinstance(logits, Tensor)
        return logits


def covering_windows(shape: Sequence[int], window: Sequence[int], overlap: float) -> Iterator[tuple[Any, ...]]:
    """Yield the indices of windows that are evenly spread and cover an image, neighbors with at least the overlap."""
    starts = []
    for side, size in zip(shape, window, strict=True):
        count = 1 + math.ceil((side - size) / (size * (1.0 - overlap)))
        starts.append([round(start) for start in torch.linspace(0, side - size, count).tolist()])
    for corner in itertools.product(*starts):
        yield (..., *(slice(start, start + size) for start, size in zip(corner, window, strict=True)))


def has_truth(row: Row, config: Predicting) -> bool:
    """Return whether an image has a true value for a model: a label map, a class that the model has, or a number.

    Raises:
        DataError: If the model is a regression or survival prediction, and the label does not fit it.
    """
    if config.image_task == "segmentation":
        return bool(row.mask)
    return image_task(config.image_task).has_truth(row, config.target)


def head_of(config: ModelConfig, backbone: Backbone) -> Head:
    """Return the freshly initialized head of a model; of a multi-task model, it consists of one head for each label.

    Raises:
        ConfigError: If the head does not fit the backbone, or does not allow several labels.
    """
    target = config.target
    if config.head.IS_DECODER and is_image_task(config.kind):
        raise ConfigError(
            f"head={config.head.name} gives a result for each pixel, and task={config.kind} one for each image; give "
            "another head, such as linear or attention"
        )
    if target.parts:
        counts = [image_task(part.task).num_outputs(part.target) for part in target.parts]
        return config.head.build_for_labels(backbone, counts)
    return config.head.build(backbone, num_outputs(config))


def num_outputs(config: ModelConfig) -> int:
    """Return the number of logits of a model; of a multi-task model, that of all its labels."""
    if not is_image_task(config.kind):
        return len(config.regions or config.classes)
    return image_task(config.kind).num_outputs(config.target)


def on_grid(tokens: Tokens, grid: tuple[int, ...]) -> Tokens:
    """Return tokens with their patches interpolated linearly to another grid over the same image."""
    if tokens.grid == grid:
        return tokens
    table = tokens.patches.transpose(1, 2).unflatten(2, tokens.grid)
    mode = "trilinear" if len(grid) == 3 else "bilinear"
    table = F.interpolate(table, size=grid, mode=mode, align_corners=False)
    return Tokens(tokens.prefix, table.flatten(2).transpose(1, 2), grid)


def cut(logits: Float[Tensor, "b l *t"], pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b l *u"]:
    """Return logits without the padding at the end of each axis; logits without spatial axes are unchanged."""
    inside: tuple[Any, ...] = (..., *(slice(n) for n in pixels.shape[2:]))
    return logits if logits.ndim == 2 else logits[inside]


def _plain() -> Config:
    from medvit.registry import find

    return find("medvit.peft", "full")()


def _load(model: Model, state: Mapping[str, Tensor], checkpoint: Checkpoint) -> None:
    try:
        model.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise CheckpointError(
            f"{checkpoint.folder}: the weights do not fit model.yaml: {lines[-1].strip()}; "
            "the folder mixes two checkpoints"
        ) from None
