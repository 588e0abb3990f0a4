"""Leaderboard of frozen backbones on a labeled dataset, by a fixed protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from numpy import ndarray as Array
from pydantic import Field

from medvit.baselines.kinds import label_columns
from medvit.baselines.subject import LabeledSplits, PredictedTarget, only_label, several_labels
from medvit.dataset.manifest import Manifest
from medvit.document import markdown_table
from medvit.embeddings.image_embedder import ImageEmbedder
from medvit.embeddings.run import embed_images
from medvit.errors import ConfigError, DataError
from medvit.evaluation.positive import choose_positive, index_of
from medvit.hardware import Device
from medvit.inference.jobs import names_of
from medvit.metrics.confusion import median_grade
from medvit.models.features import Features, digest_of_backbone
from medvit.probing.classifiers import Probed, ProbeSplits
from medvit.probing.labels import LabelSplits, probe_labels
from medvit.probing.layer_features import EveryLayer, LayerFeatures
from medvit.probing.leaderboard import (
    HTML,
    JSON,
    MAIN,
    BoardLine,
    LayerLine,
    board_line,
    board_table,
    label_layer_lines,
    layer_lines,
    number_layer_lines,
    probed,
    probed_numbers,
    ranked,
    write_board,
)
from medvit.probing.protocol import Protocol
from medvit.probing.regressors import NumberSplits, ProbedNumbers
from medvit.records import Row
from medvit.stage import Run, StageConfig, stage
from medvit.summary import Summary, labeled
from medvit.tasks import TaskName

CHUNKS = "features"
"""Folder of finished features in the folder of an unfinished run."""
ProbeName = Literal["knn", "logistic", "linear", "ridge"]
ProbeTask = Literal["classification", "ordinal", "multilabel", "regression"]
OF_CLASSES: tuple[ProbeName, ...] = ("knn", "logistic", "linear")
OF_TASK: dict[str, tuple[ProbeName, ...]] = {
    "classification": OF_CLASSES,
    "ordinal": OF_CLASSES,
    "multilabel": OF_CLASSES,
    "regression": ("knn", "ridge"),
}
"""Probes of each task."""


class ProbingConfig(StageConfig):
    """Options of `medvit probe`."""

    checkpoints: tuple[Path, ...] = Field(min_length=1)
    """Folders of backbones or models, as in checkpoints=[a,b]. Of a model, only its backbone is used, with the adapter.
    """
    dataset: Path
    """Dataset folder made by ingest."""
    output: Path
    """New folder for the leaderboard."""
    label: str | None = None
    """Label to predict. Unset: the only label of the dataset."""
    labels: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Several labels to predict, each with two classes. An image may lack some of them. Unset: `label` is predicted."""
    task: ProbeTask | None = None
    """Task of the probes. classification: the class of an image. ordinal: the same for ordered grades, such as 0, 1, 2;
    the predicted grade is the median. multilabel: the classes of several labels. regression: a number, such as an age.
    Unset: multilabel if `labels` is set, else classification.
    """
    probes: tuple[ProbeName, ...] | None = Field(default=None, min_length=1)
    """Models on the frozen features. knn: nearest neighbors. logistic: logistic regression. linear: linear classifiers
    for several learning rates, numbers of layers and poolings. ridge: ridge regression of a number. Unset: knn,
    logistic and linear, or knn and ridge for a regression.
    """
    layers: bool = True
    """Whether to predict from the features of each layer, too, which shows how much the last layers help."""
    features: Features = "class_mean"
    """Tokens of the last layer for `knn`, `logistic` and `ridge`. class: the class token. mean: the mean of the patch
    tokens. class_mean: both. A backbone without a class token has `mean` instead.
    """
    positive: str = ""
    """Positive one of two classes. Empty: that of the dataset, or the last class."""
    resamples: int = Field(2000, ge=100)
    """Number of bootstrap resamples for the confidence intervals."""
    device: Device = "auto"
    """Device to run the backbones on. The value auto uses the GPU if there is one."""


@dataclass(frozen=True)
class Leaderboard:
    """Finished leaderboard: `probe.html`, `probe.json`."""

    folder: Path
    protocol: Protocol
    lines: tuple[BoardLine, ...]

    def summary(self) -> Summary:
        """Return the hash of the protocol, and the main metric of each backbone and probe."""
        task = self.protocol.task
        main = MAIN[task][0]
        texts = [f"{line.backbone}, {line.probe}: {line.metrics[main]}" for line in ranked(self.lines, task)]
        lines = [("protocol", self.protocol.hash), *labeled(main, texts)]
        return Summary(lines, {HTML: "tables and figures", JSON: "all numbers"})


@stage
def probe(config: ProbingConfig, run: Run) -> Leaderboard:
    """Compare frozen backbones on a label of a dataset by nearest neighbors, linear models and layers."""
    manifest = run.dataset(config.dataset)
    names = names_of(config.checkpoints)
    run.leftovers.add(CHUNKS)
    target = _target(config, manifest)
    task, labels = target.task, target.labels or (target.label,)
    probes = _probes(config, task)
    having = manifest.filter(lambda row: any(label in row.labels for label in labels))
    weights, features, rows = _features(config, run, names, having)
    shared = set.intersection(*({row.image_id for row in own} for own in rows.values()))
    images = manifest.filter(lambda row: row.image_id in shared)
    splits = LabeledSplits.of(images, target.label, labels=target.labels, task=task)
    for label in labels:
        if len({row.labels.get(label) for row in splits.val} - {None}) < 2:
            what = "values" if task == "regression" else "classes"
            raise DataError(
                f"{manifest.folder}: the val split has {len(splits.val)} images of fewer than two {what} of {label}; "
                "the settings of probes are chosen on it: ingest with a larger val split"
            )

    protocol = Protocol.of(splits, probes, config.features, config.seed)
    positive, notes = choose_positive(
        () if task == "multilabel" else splits.classes,
        asked=config.positive,
        worst="",
        model="",
        dataset=manifest.facts.positive.get(target.label, ""),
    )
    lines: list[BoardLine] = []
    layers: list[LayerLine] = []
    for name in names:
        train, val, test = (_of(features[name], rows[name], part) for part in (splits.train, splits.val, splits.test))
        own = _Own(splits, (train, val, test))
        for kind in probes:
            found, columns = own.probed(kind, config)
            first = next((line for line in lines if line.probe == kind), None)
            lines.append(
                board_line(
                    name,
                    kind,
                    found,
                    splits.test.rows,
                    columns,
                    splits.classes,
                    first,
                    positive=index_of(positive, splits.classes),
                    resamples=config.resamples,
                    seed=config.seed,
                )
            )
        layers += own.layers(name) if config.layers else []

    write_board(run.folder, manifest.facts.name, protocol, lines, layers, weights, positive, notes)
    print(f"protocol {protocol.hash}\n\n{markdown_table(board_table(lines, task, positive))}")
    main = MAIN[task][0]
    for one in lines:
        run.tracker.metrics(one.metrics[main].named(f"test.{main}.{one.backbone}.{one.probe}"))
    run.keep(HTML, JSON)
    return Leaderboard(run.folder, protocol, tuple(lines))


def _target(config: ProbingConfig, manifest: Manifest) -> PredictedTarget:
    """Return the task, and the label or labels of the probes.

    Raises:
        ConfigError: If the options contradict each other, or a label is missing.
    """
    if config.labels is not None or config.task == "multilabel":
        return several_labels(config.task, config.label, config.labels)
    task = config.task or "classification"
    if task == "regression" and config.label is None:
        raise ConfigError("task=regression needs a label; give label=NAME")
    return PredictedTarget(task, config.label or only_label(manifest))


def _probes(config: ProbingConfig, task: TaskName) -> tuple[ProbeName, ...]:
    """Return the probes of the task.

    Raises:
        ConfigError: If a probe is requested that the task does not have.
    """
    own = OF_TASK[task]
    for name in config.probes or ():
        if name not in own:
            raise ConfigError(f"probes has {name}, but task={task} has {', '.join(own)}; remove {name}")
    return config.probes or own


@dataclass(frozen=True)
class _Own:
    """Features of the train, val and test images of one backbone, and what the probes predict from them."""

    splits: LabeledSplits
    parts: tuple[LayerFeatures, LayerFeatures, LayerFeatures]

    def probed(self, kind: str, config: ProbingConfig) -> tuple[Probed | ProbedNumbers, dict[str, Array]]:
        """Return the result of a probe, and truth and predictions of the test images."""
        rows = self.splits.test.rows
        if self.splits.task == "regression":
            numbers = probed_numbers(kind, self._numbers, config.features)
            return numbers, {"truth": self.splits.numbers(rows), "predicted": numbers.values}
        if self.splits.task == "multilabel":
            several = probe_labels(self._labels, lambda one: probed(kind, one, config.features, seed=config.seed))
            return several, label_columns(self.splits, rows, several.probabilities)
        found = probed(kind, self._classes, config.features, seed=config.seed)
        graded = {"predicted": median_grade(found.probabilities)} if self.splits.task == "ordinal" else {}
        named = {f"p.{name}": found.probabilities[:, index] for index, name in enumerate(self.splits.classes)}
        return found, {"truth": self.splits.truth(rows), **graded, **named}

    def layers(self, backbone: str) -> list[LayerLine]:
        """Return the sweep over layers."""
        rows = self.splits.test.rows
        if self.splits.task == "regression":
            return number_layer_lines(backbone, self._numbers, self.splits.numbers(rows))
        if self.splits.task == "multilabel":
            return label_layer_lines(backbone, self._labels, self.splits.truth_of_labels(rows))
        return layer_lines(backbone, self._classes, self.splits.truth(rows))

    @property
    def _classes(self) -> ProbeSplits:
        train, val = (self.splits.truth(part.rows) for part in (self.splits.train, self.splits.val))
        return ProbeSplits(*self.parts, train, val, len(self.splits.classes))

    @property
    def _labels(self) -> LabelSplits:
        train, val = (self.splits.truth_of_labels(part.rows) for part in (self.splits.train, self.splits.val))
        return LabelSplits(*self.parts, train, val)

    @property
    def _numbers(self) -> NumberSplits:
        train, val = (self.splits.numbers(part.rows) for part in (self.splits.train, self.splits.val))
        return NumberSplits(*self.parts, train, val)


def _features(
    config: ProbingConfig, run: Run, names: Sequence[str], manifest: Manifest
) -> tuple[dict[str, str], dict[str, LayerFeatures], dict[str, list[Row]]]:
    """Return digests of the weights, features of all layers and embedded images of each backbone, by name."""
    weights, features, rows = {}, {}, {}
    for name, folder in zip(names, config.checkpoints, strict=True):
        embedder = ImageEmbedder(run.checkpoint(folder, f"checkpoint.{name}"), config.device, EveryLayer())
        fitting = manifest.filter(lambda row, kind=embedder.kind: row.kind == kind)  # type: ignore[misc]
        if not len(fitting):
            raise DataError(f"{manifest.folder} has no labeled {embedder.kind}, which the backbone {name} is for")
        work = run.folder / CHUNKS / name
        work.parent.mkdir(exist_ok=True)
        rows[name], vectors = embed_images(fitting, embedder, work, run.failures)
        features[name] = LayerFeatures.of(vectors, embedder.backbone)
        weights[name] = digest_of_backbone(embedder.backbone)
    return weights, features, rows


def _of(features: LayerFeatures, rows: Sequence[Row], part: Manifest) -> LayerFeatures:
    places = {row.image_id: index for index, row in enumerate(rows)}
    return features.at([places[row.image_id] for row in part.rows])
