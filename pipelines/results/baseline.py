"""Simple baselines of a label, trained on the splits of a dataset, with which a model is compared."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from medvit.artifacts import Checkpoint
from medvit.baselines.attributes import ATTRIBUTES
from medvit.baselines.beside import SHOWN, metrics_of_table
from medvit.baselines.kinds import NAMES, TITLES, BaselineName, train_baseline
from medvit.baselines.stored import FACTS, table_of, write_baselines
from medvit.baselines.subject import LabeledSplits, label_of_checkpoint, only_label
from medvit.dataset.manifest import Manifest
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
    """Folder of a model or backbone. The baselines then predict the label of the model, from images with the same
    preprocessing. Unset: the pixels are used as they are stored.
    """
    label: str | None = None
    """Label to predict. Unset: that of the checkpoint, or the only label of the dataset."""
    output: Path | None = None
    """New folder for the baselines. Unset: the first unused name of baseline-1, baseline-2... in the current folder."""
    kinds: tuple[BaselineName, ...] = Field(default=NAMES, min_length=1)
    """Baselines to train. majority: the frequencies of the classes. attributes: age, sex and scanner, without the
    image. pixels: the pixels of small images. shape: size, surface and extents of binary images. A baseline that the
    dataset does not allow is skipped with a warning, or refused if you set this option.
    """
    attributes: tuple[str, ...] = ATTRIBUTES
    """Attributes, or labels, that the baseline `attributes` uses, if the images have them."""
    positive: str = ""
    """Positive one of two classes. Empty: that of the checkpoint or dataset, or the last class."""
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


@stage
def baseline(config: BaselineConfig, run: Run) -> Baselines:
    """Train simple baselines, such as the class frequencies or age, sex and scanner, to compare a model with."""
    manifest = run.dataset(config.dataset)
    checkpoint = None if config.checkpoint is None else run.checkpoint(config.checkpoint)
    splits = _splits(config, manifest, checkpoint)
    positive, notes = choose_positive(
        splits.classes,
        asked=config.positive,
        worst="",
        model=str(checkpoint.model.get("positive", "")) if checkpoint else "",
        dataset=manifest.facts.positive.get(splits.label, ""),
    )
    for note in notes:
        log.warning("%s", note)

    trained = []
    for name in config.kinds:
        try:
            trained.append(train_baseline(name, splits, config.attributes))
        except DataError as error:
            if "kinds" in config.model_fields_set:
                raise DataError(f"{TITLES[name]}: {error}") from None
            log.warning("%s is skipped: %s", TITLES[name], error)

    metrics: dict[str, Mapping[str, Estimate]] = {}
    for one in trained:
        columns = table_of(one, splits)
        table = {key: column[columns["split"] == "test"] for key, column in columns.items()}
        index = index_of(positive, splits.classes)
        metrics[one.name] = metrics_of_table(table, splits.classes, index, resamples=config.resamples, seed=config.seed)
    write_baselines(run.folder, splits, trained, metrics)
    lines = [[TITLES[one.name], *(metrics[one.name][key].text for key in SHOWN), one.note] for one in trained]
    print(markdown_table(Table(["baseline", *(metric_title(key, positive) for key in SHOWN), "features"], lines)))
    run.tracker.metrics({f"test.auroc.{name}": found["auroc"].value for name, found in metrics.items()})
    run.keep(FACTS)
    return Baselines(run.folder, tuple((str(line[0]), f"{SHOWN[0]} {line[1]}") for line in lines))


def _splits(config: BaselineConfig, manifest: Manifest, checkpoint: Checkpoint | None) -> LabeledSplits:
    own = label_of_checkpoint(checkpoint) if checkpoint is not None else ""
    if own and config.label not in (None, own):
        raise ConfigError(f"label={config.label}, but the model of the checkpoint predicts {own}; remove label")
    label = own or config.label or only_label(manifest)
    if checkpoint is None:
        return LabeledSplits.of(manifest, label)
    if checkpoint.kind == "slide":
        return LabeledSplits.of(manifest, label, kind="slide")
    preprocess = Preprocess.parse_saved(checkpoint.preprocess, source=str(checkpoint.folder))
    sliced = checkpoint.model.get("slices") is not None
    return LabeledSplits.of(
        manifest,
        label,
        kind="volume" if sliced else preprocess.kind,
        preprocess=None if sliced else preprocess,
    )
