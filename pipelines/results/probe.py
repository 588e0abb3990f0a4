"""Leaderboard of frozen backbones on a labeled dataset, by a fixed protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from medvit.baselines.subject import LabeledSplits, only_label
from medvit.dataset.manifest import Manifest
from medvit.document import markdown_table
from medvit.embeddings.image_embedder import ImageEmbedder
from medvit.embeddings.run import embed_images
from medvit.errors import DataError
from medvit.evaluation.positive import choose_positive, index_of
from medvit.hardware import Device
from medvit.inference.jobs import names_of
from medvit.models.features import Features, digest_of_backbone
from medvit.probing.classifiers import ProbeSplits
from medvit.probing.layer_features import EveryLayer, LayerFeatures
from medvit.probing.leaderboard import (
    HTML,
    JSON,
    BoardLine,
    LayerLine,
    board_line,
    board_table,
    layer_lines,
    probed,
    ranked,
    write_board,
)
from medvit.probing.protocol import Protocol
from medvit.records import Row
from medvit.stage import Run, StageConfig, stage
from medvit.summary import Summary, labeled

CHUNKS = "features"
"""Folder of finished features in the folder of an unfinished run."""
ProbeName = Literal["knn", "logistic", "linear"]


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
    probes: tuple[ProbeName, ...] = Field(default=("knn", "logistic", "linear"), min_length=1)
    """Classifiers on the frozen features. knn: nearest neighbors. logistic: logistic regression. linear: linear
    classifiers for several learning rates, numbers of layers and poolings.
    """
    layers: bool = True
    """Whether to classify from the features of each layer, too, which shows how much the last layers help."""
    features: Features = "class_mean"
    """Tokens of the last layer for `knn` and `logistic`. class: the class token. mean: the mean of the patch tokens.
    class_mean: both. A backbone without a class token has `mean` instead.
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
        """Return the hash of the protocol, and the AUROC of each backbone and probe."""
        texts = [f"{line.backbone}, {line.probe}: {line.metrics['auroc']}" for line in ranked(self.lines)]
        lines = [("protocol", self.protocol.hash), *labeled("auroc", texts)]
        return Summary(lines, {HTML: "tables and figures", JSON: "all numbers"})


@stage
def probe(config: ProbingConfig, run: Run) -> Leaderboard:
    """Compare frozen backbones on a label of a dataset by nearest neighbors, linear classifiers and layers."""
    manifest = run.dataset(config.dataset)
    names = names_of(config.checkpoints)
    run.leftovers.add(CHUNKS)
    label = config.label or only_label(manifest)
    weights, features, rows = _features(config, run, names, manifest.filter(lambda row: label in row.labels))
    shared = set.intersection(*({row.image_id for row in own} for own in rows.values()))
    splits = LabeledSplits.of(manifest.filter(lambda row: row.image_id in shared), label)
    if len({row.labels[label] for row in splits.val}) < 2:
        raise DataError(
            f"{manifest.folder}: the val split has {len(splits.val)} images of fewer than two classes of {label}; the "
            "settings of probes are chosen on it: ingest with a larger val split"
        )

    protocol = Protocol.of(splits, config.probes, config.features, config.seed)
    positive, notes = choose_positive(
        splits.classes, asked=config.positive, worst="", model="", dataset=manifest.facts.positive.get(label, "")
    )
    lines: list[BoardLine] = []
    layers: list[LayerLine] = []
    test_truth = splits.truth(splits.test.rows)
    for name in names:
        own = _split(features[name], rows[name], splits)
        for kind in config.probes:
            found = probed(kind, own, config.features, seed=config.seed)
            first = next((line for line in lines if line.probe == kind), None)
            lines.append(
                board_line(
                    name,
                    kind,
                    found,
                    splits.test.rows,
                    test_truth,
                    splits.classes,
                    first,
                    positive=index_of(positive, splits.classes),
                    resamples=config.resamples,
                    seed=config.seed,
                )
            )
        layers += layer_lines(name, own, test_truth) if config.layers else []

    write_board(run.folder, manifest.facts.name, protocol, lines, layers, weights, positive, notes)
    print(f"protocol {protocol.hash}\n\n{markdown_table(board_table(lines, positive))}")
    run.tracker.metrics({f"test.auroc.{one.backbone}.{one.probe}": one.metrics["auroc"].value for one in lines})
    run.keep(HTML, JSON)
    return Leaderboard(run.folder, protocol, tuple(lines))


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


def _split(features: LayerFeatures, rows: Sequence[Row], splits: LabeledSplits) -> ProbeSplits:
    places = {row.image_id: index for index, row in enumerate(rows)}
    parts = [
        features.at([places[row.image_id] for row in part.rows]) for part in (splits.train, splits.val, splits.test)
    ]
    truths = splits.truth(splits.train.rows), splits.truth(splits.val.rows)
    return ProbeSplits(parts[0], parts[1], parts[2], *truths, len(splits.classes))
