"""Simple baselines of a label or of label maps, trained on the splits of a dataset, with which a model is compared."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from medvit.artifacts import Checkpoint
from medvit.baselines.attributes import ATTRIBUTES
from medvit.baselines.beside import SHOWN, metrics_of_table
from medvit.baselines.kinds import (
    NETWORKS,
    OF_TASK,
    TITLES,
    BaselineName,
    TrainedBaseline,
    require_known,
    train_baseline,
)
from medvit.baselines.masks import train_mask_baseline
from medvit.baselines.network import NetworkOptions, NetworkPlan, predicted_baseline, reuse_network, train_network
from medvit.baselines.stored import FACTS, table_of, write_baselines
from medvit.baselines.subject import LabeledSplits, PredictedTarget, only_label, several_labels, target_of_checkpoint
from medvit.dataset.manifest import Manifest
from medvit.dataset.slices import SlicesConfig
from medvit.document import Table, markdown_table
from medvit.errors import ConfigError, DataError
from medvit.evaluation.positive import choose_positive, index_of
from medvit.metrics import metric_title
from medvit.stage import Run, StageConfig, first_free, stage
from medvit.statistics import Estimate
from medvit.summary import Summary
from medvit.transforms.preprocess import Preprocess

log = logging.getLogger("medvit")


class BaselineConfig(StageConfig):
    """Options of `medvit baseline`."""

    dataset: Path
    """Dataset folder made by ingest."""
    checkpoint: Path | None = None
    """Folder of a model or backbone. The baselines then predict what the model predicts, and those of pixels and the
    ResNet use images with the same preprocessing. Unset: the pixels are used as they are stored.
    """
    task: Literal["classification", "ordinal", "multilabel", "regression", "segmentation"] | None = None
    """Task of the baselines. Unset: that of the checkpoint; without one, multilabel if `labels` is set, segmentation if
    the dataset has label maps and no label is given, else classification.
    """
    label: str | None = None
    """Label to predict. Unset: that of the checkpoint, or the only label of the dataset."""
    labels: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Several labels to predict, each with two classes. Unset: those of the checkpoint."""
    output: Path | None = None
    """New folder for the baselines. Unset: the first unused name of baseline-1, baseline-2... in the current folder."""
    kinds: tuple[BaselineName, ...] | None = Field(default=None, min_length=1)
    """Baselines to train. Of classes: majority, the frequencies of the classes. Of numbers: mean and median. Of both:
    attributes, age, sex and scanner without the image; pixels, the pixels of small images; shape, size, surface and
    extents of binary images; resnet, a ResNet-18 from scratch. Of segmentations: background, no structure; mean_mask,
    the mean label map; threshold, a threshold on intensities; voxels, a regression on the surroundings of each voxel;
    dynunet, a small U-Net from scratch. Unset: all of the task except resnet and dynunet, whose training takes longer;
    what the dataset does not allow is skipped with a warning. A baseline that you name is refused in this case.
    """
    network: NetworkOptions = Field(default_factory=NetworkOptions)
    earlier: Path | None = None
    """Folder of earlier baselines. Their network is copied if it was trained on the same images and labels with the
    same options, and trained again if not.
    """
    attributes: tuple[str, ...] = ATTRIBUTES
    """Attributes, or labels, that the baseline `attributes` uses, if the images have them."""
    positive: str = ""
    """Positive one of two classes. Empty: that of the checkpoint or dataset, or the last class."""
    nsd_tolerance_mm: float = Field(1.0, gt=0)
    """Tolerance of the normalized surface Dice (NSD) of a segmentation, in mm, or in pixels without a physical scale.
    Give the same to evaluate.
    """
    resamples: int = Field(2000, ge=100)
    """Number of bootstrap resamples for the confidence intervals."""

    @property
    def folder(self) -> Path:
        """Output folder."""
        return self.output or first_free("baseline")


@dataclass(frozen=True)
class Baselines:
    """Trained baselines: `baselines.json`, and a table of predictions for each."""

    folder: Path
    lines: tuple[tuple[str, str], ...]

    def summary(self) -> Summary:
        """Return the main metric of each baseline on the test split."""
        return Summary(self.lines, {FACTS: "metrics and notes"})


@dataclass(frozen=True)
class _Subject:
    """Target of the baselines, with the preprocessing and slices of the model that is compared."""

    splits: LabeledSplits
    preprocess: Preprocess | None = None
    slices: SlicesConfig | None = None


@stage
def baseline(config: BaselineConfig, run: Run) -> Baselines:
    """Train simple baselines, such as the class frequencies or age, sex and scanner, to compare a model with."""
    manifest = run.dataset(config.dataset)
    checkpoint = None if config.checkpoint is None else run.checkpoint(config.checkpoint)
    subject = _subject(config, manifest, checkpoint)
    splits = subject.splits
    positive, notes = choose_positive(
        splits.classes if splits.task == "classification" else (),
        asked=config.positive,
        worst="",
        model=str(checkpoint.model.get("positive", "")) if checkpoint else "",
        dataset=manifest.facts.positive.get(splits.label, ""),
    )
    for note in notes:
        log.warning("%s", note)

    trained = list(_trained(config, subject, manifest, run))
    metrics: dict[str, Mapping[str, Estimate]] = {}
    for one in trained:
        columns = table_of(one)
        table = {key: column[columns["split"] == "test"] for key, column in columns.items()}
        index = index_of(positive, splits.classes)
        metrics[one.name] = metrics_of_table(table, splits.classes, index, resamples=config.resamples, seed=config.seed)
    write_baselines(run.folder, splits, trained, metrics, tolerance_mm=config.nsd_tolerance_mm)
    shown = [key for key in SHOWN[splits.task] if all(key in found for found in metrics.values())]
    lines = [[one.title, *(metrics[one.name][key].text for key in shown), one.note] for one in trained]
    print(markdown_table(Table(["baseline", *(metric_title(key, positive) for key in shown), "description"], lines)))
    for name, found in metrics.items():
        run.tracker.metrics(found[shown[0]].named(f"test.{shown[0]}.{name}"))
    run.keep(FACTS)
    return Baselines(run.folder, tuple((str(line[0]), f"{shown[0]} {line[1]}") for line in lines))


def _trained(config: BaselineConfig, subject: _Subject, manifest: Manifest, run: Run) -> Iterator[TrainedBaseline]:
    """Yield each baseline; one that the dataset does not allow is skipped, or refused if it was named."""
    task = subject.splits.task
    for name in config.kinds or [one for one in OF_TASK[task] if one not in NETWORKS]:
        try:
            require_known(name, task)
            if name in ("resnet", "dynunet"):
                plan = NetworkPlan(
                    name, subject.splits, config.network, config.seed, subject.preprocess, subject.slices
                )
                yield _network(config, plan, manifest, run)
            elif task == "segmentation":
                yield train_mask_baseline(name, subject.splits, tolerance_mm=config.nsd_tolerance_mm, seed=config.seed)
            else:
                yield train_baseline(name, subject.splits, config.attributes)
        except DataError as error:
            if config.kinds:
                raise DataError(f"{TITLES[name]}: {error}") from None
            log.warning("%s is skipped: %s", TITLES[name], error)


def _network(config: BaselineConfig, plan: NetworkPlan, manifest: Manifest, run: Run) -> TrainedBaseline:
    folder = run.folder / plan.name
    if config.earlier is not None:
        if reuse_network(plan, config.earlier / plan.name, folder):
            log.info("%s is that of %s", plan.title, config.earlier)
        else:
            log.warning("%s has no %s of these images and options; it is trained again", config.earlier, plan.title)
    checkpoint = train_network(plan, folder, manifest.hash, run.tracker)
    return predicted_baseline(plan, checkpoint, tolerance_mm=config.nsd_tolerance_mm)


def _subject(config: BaselineConfig, manifest: Manifest, checkpoint: Checkpoint | None) -> _Subject:
    target = _target(config, manifest, checkpoint)
    if checkpoint is None:
        return _Subject(LabeledSplits.of(manifest, target.label, labels=target.labels, task=target.task))
    if checkpoint.kind == "slide":
        return _Subject(LabeledSplits.of(manifest, target.label, kind="slide"))
    preprocess = Preprocess.parse_saved(checkpoint.preprocess, source=str(checkpoint.folder))
    tree = checkpoint.model.get("slices")
    slices = None if tree is None else SlicesConfig.parse(tree)
    splits = LabeledSplits.of(
        manifest,
        target.label,
        labels=target.labels,
        kind=preprocess.kind if slices is None else "volume",
        preprocess=preprocess if slices is None else None,
        task=target.task,
    )
    return _Subject(splits, preprocess, slices)


def _target(config: BaselineConfig, manifest: Manifest, checkpoint: Checkpoint | None) -> PredictedTarget:
    """Return the task and the label or labels of the baselines.

    Raises:
        ConfigError: If the options contradict each other or the model.
    """
    own = None if checkpoint is None else target_of_checkpoint(checkpoint)
    if own is not None:
        given = {"task": config.task, "label": config.label, "labels": config.labels}
        for key, value in given.items():
            found = getattr(own, key)
            if value not in (None, found):
                raise ConfigError(f"{key}={value}, but the model of the checkpoint has {found or 'none'}; remove {key}")
        return own
    if config.labels is not None or config.task == "multilabel":
        return several_labels(config.task, config.label, config.labels)
    has_masks = any(row.mask is not None for row in manifest)
    task = config.task or ("segmentation" if has_masks and config.label is None else "classification")
    if task == "segmentation":
        if config.label is not None:
            raise ConfigError(f"label={config.label} is not used by task=segmentation; remove one of them")
        return PredictedTarget(task)
    if task == "regression" and config.label is None:
        raise ConfigError("task=regression needs a label; give label=NAME")
    return PredictedTarget(task, config.label or only_label(manifest))
