"""Options of fine-tuning: target, training crops, and inference settings of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from medvit.config import Amount, Axis, Count, Share
from medvit.dataset.slices import SlicesConfig
from medvit.heads import OptionalHeadChoice
from medvit.losses.class_balance import Balance
from medvit.models.image import AppliesTo
from medvit.models.tile_embedder import EmbeddingConfig
from medvit.peft import OptionalLoraChoice
from medvit.tasks import NUM_INTERVALS, LabelTaskName, RegressionLoss, TaskName
from medvit.training.loading.bags import EARLIER_KEYS, BagConfig, folds_of_bags
from medvit.training.options import TrainingOptions
from medvit.transforms.augmentation.mixing import MixingConfig
from medvit.transforms.augmentation.options import FinetuningAugmentation
from medvit.transforms.regions import Regions
from medvit.wsi.locations import SlidesConfig


class FinetuningOptions(TrainingOptions):
    """Options of fine-tuning, without those common to all stages."""

    dataset: Path
    """Dataset folder made by ingest. The model is trained on the train split, and the best epoch is selected on the val
    split.
    """
    slices: SlicesConfig | None = None
    """Cut volumes into slices and train on these as images; the model then predicts volumes slice by slice."""
    peft: OptionalLoraChoice = None
    """Weights of the backbone to train. full: all. frozen: none. lora, rslora, dora, adalora, selective_lora: low-rank
    updates. vera, ia3: scales. explora: low-rank updates and some whole blocks. last_blocks: the last blocks.
    block_expansion: added blocks. adaptformer: bottlenecks beside the MLPs. vpt: prompt tokens. bitfit: biases. spt:
    the weights with the largest gradients, within a budget. taps: the layers that need it. continue: the
    weights of the checkpoint's adapter. Unset: lora for a pretrained backbone, full for a randomly initialized one.
    """
    head: OptionalHeadChoice = None
    """Head that computes logits from tokens. For segmentation: dense, meddinov3, unetr, vitdet, or own (the
    decoder of backbone=dynunet or monai). For whole slides: abmil, mean, transformer_mil and transmil. prompt_cam
    requires peft=vpt and has one prompt token per class. Unset: dense for segmentation, abmil for whole slides, else
    linear.
    """
    task: TaskName | None = None
    """Task of the model. classification: the class of an image, by `label`. ordinal: the same for classes that are
    ordered grades, such as 0, 1, 2, so that an error by several grades costs more. regression: a number, such as an
    age, by `label`. multilabel: the several labels in `labels`, each with two classes. multitask: the several labels in
    `tasks`, each with its own task. survival: the time to an event, by `label` and `event`. segmentation: label maps.
    Unset: multilabel if `labels` is set, multitask if `tasks` is set, survival if `event` is set, else classification
    if images have the label named in `label`, else segmentation.
    """
    label: str = "label"
    """Name of the label to predict. If no image has this label and `task` is unset, the model learns to predict label
    maps (segmentation).
    """
    labels: tuple[str, ...] = ()
    """Names of several labels to predict, each with two classes, with task=multilabel. An image may lack some of them.
    """
    event: str = ""
    """Name of the label that is 1 if the event was observed at the time given by `label`, and 0 if this time is
    censored, that is, if the event was not observed up to this time. For task=survival.
    """
    tasks: dict[str, LabelTaskName] = Field(default_factory=dict)
    """Several labels to predict and their tasks (classification, ordinal, regression), with task=multitask, such as
    {diagnosis: classification, density: ordinal, age: regression}. One model predicts all of them, with a head for each
    label. An image may lack some of the labels.
    """
    task_weights: dict[str, Amount] = Field(default_factory=dict)
    """Weights of the losses of the labels in `tasks`, such as {age: 0.5}. Labels that are not named have the weight 1.
    """
    positive: str = ""
    """Positive class of a label with two classes, to which sensitivity refers. The model stores this setting. Empty:
    the positive class given to ingest.
    """
    crop: tuple[Count, ...] | None = None
    """Size of the training crops and of the sliding window. Unset: for segmentation, the median size of the
    training images; for other tasks, the size of the largest one. A side is at most 512 pixels or 96 voxels.
    """
    balance: Balance = "loss"
    """Correction of class imbalance. loss: weight the classes in the loss. sampler: draw all classes equally often.
    logits: logit adjustment, for many rare classes. deferred: weight the classes only in the last fifth of the steps.
    repeat: draw rare classes more often, by repeat factors. off: no correction.
    """
    smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Label smoothing for classification: share of each target that is spread evenly over all classes."""
    regression_loss: RegressionLoss = "smooth_l1"
    """Loss of a regression, in standard deviations of the training targets. smooth_l1: the squared error for small
    errors, but linear for errors above one standard deviation, so that outliers have less influence. mse: squared
    error.
    """
    survival_intervals: int = Field(default=NUM_INTERVALS, ge=2)
    """Number of time intervals for task=survival, for each of which the model predicts a hazard. Each interval contains
    about the same number of events of training patients.
    """
    keep: Literal["best", "last"] = "best"
    """Weights to keep. best: the weights of the epoch with the best metric on the val split. last: the weights of the
    last step; the val split is not used and may be empty. Use last if the number of steps was fixed beforehand.
    """
    folds: int = Field(default=0, ge=0)
    """Number of folds for cross-validation. The patients of the train and val splits are divided into folds. For each
    fold, one model is trained on the other folds, and its best epoch is selected on this fold. The result is an
    ensemble, which averages the predictions of the models. Its folder `out_of_fold` contains predictions for every
    patient by the models that were not trained on that patient. 0: no cross-validation; train on the train split and
    select the best epoch on the val split.
    """
    seeds: Count | None = None
    """Number of models for each fold (or in all if folds=0), trained with different seeds. Their predictions are
    averaged. Unset: 5 for whole slides if folds=0, else 1.
    """
    ema: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Decay of a moving average of the trained weights, such as 0.999. If set, the averaged weights are validated and
    kept. In the first steps, the decay is smaller. Unset: no average.
    """
    foreground: Share | None = None
    """Fraction of the training crops that are centered on a foreground voxel, for segmentation. Unset: 0.5 if less than
    5 % of the voxels are foreground, else 0.33.
    """
    foreground_by: Literal["voxel", "class"] | None = None
    """Choice of the foreground voxel on which a crop is centered. voxel: any foreground voxel, so that large classes
    are more frequent. class: first a class in the image, then a voxel of it, so that all classes are equally frequent.
    Unset: class if the rarest class has less than 10 % of the voxels of the most frequent one, else voxel.
    """
    regions: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Regions to segment in place of classes, each with its classes, such as {tumor: [edema, core], core: [core]}.
    Regions may overlap: each is predicted as a binary segmentation, and metrics are computed for each region. Empty:
    classes that exclude each other are segmented.
    """
    regions_class_order: tuple[str, ...] = ()
    """Class that each region writes into a predicted label map, in the order of `regions`, such as [edema, core]. A
    region overwrites the classes of the regions before it. Required if `regions` is set.
    """
    overlap: float = Field(default=0.5, ge=0.0, lt=1.0)
    """Overlap of neighboring sliding windows, as a fraction of the window."""
    largest_components: bool = False
    """For each class of a segmentation, keep only the largest connected component of a predicted mask if this gives a
    higher Dice. The classes are chosen after the training, on the val split or, with folds, on the held-out images of
    all models together. The choice is stored in the checkpoint.
    """
    mirrored_axes: tuple[Axis, ...] = ()
    """Axes along which images are mirrored at inference (test-time augmentation). The predictions are averaged. Axis 0
    is left-right in a volume and up-down in an image.
    """
    turned_axes: tuple[Axis, Axis] | None = None
    """Two axes, such as [0,1], in whose plane images are turned by 90, 180 and 270 degrees at inference (test-time
    augmentation). The predictions are averaged, also over mirrored images. Crops must be equally long on both axes.
    """
    applies_to: AppliesTo | None = None
    """Series of a study that the model applies to. Unset options: kind and modality of the training images."""
    bags: BagConfig = Field(default_factory=BagConfig)
    slides: SlidesConfig = Field(default_factory=SlidesConfig)
    tiles: EmbeddingConfig = Field(default_factory=EmbeddingConfig)
    augment: FinetuningAugmentation = Field(default_factory=FinetuningAugmentation)
    mixing: MixingConfig = Field(default_factory=MixingConfig)

    @model_validator(mode="before")
    @classmethod
    def _of_bags(cls, given: Any) -> Any:
        """Take `bags.folds` and `bags.members` of earlier versions as `folds` and `seeds`."""
        bags = given.get("bags") if isinstance(given, Mapping) else None
        return folds_of_bags(given, bags) if isinstance(bags, Mapping) and EARLIER_KEYS & bags.keys() else given

    @model_validator(mode="before")
    @classmethod
    def _of_labels(cls, given: Any) -> Any:
        """Set an unset `task`: multilabel if `labels` is set, multitask if `tasks` is, survival if `event` is."""
        if not isinstance(given, Mapping) or given.get("task") is not None:
            return given
        implied = {"labels": "multilabel", "tasks": "multitask", "event": "survival"}
        found = [key for key in implied if given.get(key)]
        if len(found) > 1:
            raise ValueError(f"{' and '.join(found)} are both given, each of another task; remove one of them")
        return {**given, "task": implied[found[0]]} if found else given

    @model_validator(mode="after")
    def _labels_of_task(self) -> Self:
        if (self.task == "multilabel") != bool(self.labels):
            found = "no labels" if self.task == "multilabel" else f"labels={','.join(self.labels)}"
            raise ValueError(f"task={self.task} with {found}; give labels=[...] with task=multilabel, else label=...")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("labels has a label twice; list each once")
        if self.labels and self.balance not in ("loss", "off"):
            raise ValueError(f"balance={self.balance} is for images of one class; use balance=loss or off with labels")
        return self

    @model_validator(mode="after")
    def _event_of_survival(self) -> Self:
        if (self.task == "survival") != bool(self.event):
            found = f"event={self.event}" if self.event else "no event"
            raise ValueError(
                f"task={self.task} with {found}; give label=TIME event=EVENT, the labels of both, with task=survival"
            )
        if self.event and self.event == self.label:
            raise ValueError(f"label and event are both {self.label}; give the label of the time and that of the event")
        return self

    @model_validator(mode="after")
    def _tasks_of_labels(self) -> Self:
        if (self.task == "multitask") != bool(self.tasks):
            found = "no tasks" if self.task == "multitask" else f"tasks={{{', '.join(self.tasks)}}}"
            raise ValueError(f"task={self.task} with {found}; give tasks={{LABEL: TASK, ...}} with task=multitask")
        unknown = [label for label in self.task_weights if label not in self.tasks]
        if unknown:
            raise ValueError(f"task_weights names {unknown[0]}, which is not a label of tasks; remove it")
        if self.tasks and not any(self.task_weights.get(label, 1.0) for label in self.tasks):
            raise ValueError("all task_weights are 0, which leaves nothing to learn; give a label a weight above 0")
        if self.tasks:
            self._require_options_of_several()
        return self

    def _require_options_of_several(self) -> None:
        if self.label != type(self).model_fields["label"].default:
            raise ValueError(f"label={self.label} and tasks are both given; remove label, or name it in tasks")
        if self.positive:
            raise ValueError(
                f"positive={self.positive} is for a single label; with tasks, give the positive classes to ingest "
                "(labeling.positive)"
            )
        if self.balance in ("sampler", "repeat"):
            raise ValueError(
                f"balance={self.balance} draws images by their only class; use balance=loss, deferred, logits or off "
                "with tasks"
            )
        if self.balance == "logits" and "ordinal" in self.tasks.values():
            raise ValueError("balance=logits does not work with ordinal labels in tasks; use loss, deferred or off")
        if self.mixing.is_on:
            raise ValueError("mixing.* is only for task=classification; remove it, or train on one label of tasks")

    @model_validator(mode="after")
    def _regions_write_classes(self) -> Self:
        if len(self.regions) != len(self.regions_class_order):
            raise ValueError(
                f"regions has {len(self.regions)} regions and regions_class_order {len(self.regions_class_order)} "
                "classes; give the class that each region writes"
            )
        empty = [name for name, members in self.regions.items() if not members]
        if empty:
            raise ValueError(f"regions.{empty[0]} is without classes; give the classes in it, or remove it")
        return self

    def region_map(self, classes: Sequence[str]) -> Regions | None:
        """Return the regions to segment, of label maps with these classes; None if there are none.

        Raises:
            ConfigError: If they do not fit the classes.
        """
        return Regions.of(self.regions, self.regions_class_order, classes) if self.regions else None

    @model_validator(mode="after")
    def _of_two_folds(self) -> Self:
        if self.folds == 1:
            raise ValueError("folds=1 leaves nothing to train on; give folds=0, or at least 2")
        return self

    @property
    def fold_labels(self) -> tuple[str, ...]:
        """Labels whose classes are spread evenly over folds: label, event, or those of `tasks`, with numbers last."""
        several = sorted(self.tasks, key=lambda label: self.tasks[label] == "regression")
        return tuple(several) or (self.event or self.label,)

    def num_members(self, *, seeds: int) -> int:
        """Return the number of models to train; `seeds` is the default number of seeds without folds."""
        return max(self.folds, 1) * (self.seeds or (1 if self.folds else seeds))

    @property
    def set_for_classification(self) -> dict[str, object]:
        """Options that apply only to classification and that differ from their defaults."""
        return self._set("smoothing") | self._set_for_mixing

    @property
    def set_for_balance(self) -> dict[str, object]:
        """Options that apply only to tasks with one class per image and that differ from their defaults."""
        return self._set("balance")

    @property
    def set_for_regression(self) -> dict[str, object]:
        """Options that apply only to regression and that differ from their defaults."""
        return self._set("regression_loss")

    @property
    def set_for_survival(self) -> dict[str, object]:
        """Options of survival predictions that are not at their default."""
        return self._set("survival_intervals")

    @property
    def set_for_segmentation(self) -> dict[str, object]:
        """Options that apply only to segmentation and that differ from their defaults."""
        return self._set("foreground", "foreground_by") | self._set_for_regions

    @property
    def set_for_pixels(self) -> dict[str, object]:
        """Options that are used only for training on pixels, not on embeddings, and that differ from their defaults."""
        given = self._set(
            "crop", "keep", "overlap", "mirrored_axes", "turned_axes", "applies_to", "foreground", "foreground_by"
        )
        given |= self._set_for_regions
        kept = {} if self.peft is None or self.peft.name in ("lora", "frozen") else {"peft": self.peft.name}
        augmented = {} if self.augment == FinetuningAugmentation() else {"augment": "..."}
        return given | kept | augmented | self._set_for_mixing

    @property
    def _set_for_mixing(self) -> dict[str, object]:
        return {f"mixing.{key}": value for key, value in self.mixing.model_dump().items() if value}

    @property
    def _set_for_regions(self) -> dict[str, object]:
        if not self.regions:
            return {}
        return {"regions": "{...}", "regions_class_order": ",".join(self.regions_class_order)}

    def _set(self, *keys: str) -> dict[str, object]:
        return {key: getattr(self, key) for key in keys if getattr(self, key) != type(self).model_fields[key].default}
