"""Merging of datasets, to pretrain on all of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from medvit import cards
from medvit.cards import croissant, write_card
from medvit.dataset import quarantine
from medvit.dataset.manifest import Manifest
from medvit.dataset.measures import Measure, label_of
from medvit.dataset.tracked import record_dataset
from medvit.engine import EngineConfig
from medvit.ingest.labels import measured
from medvit.leakage.merge import LabelMaps
from medvit.leakage.merge import merge as merge_datasets
from medvit.stage import Run, StageConfig, stage

log = logging.getLogger("medvit")


class MergeConfig(StageConfig):
    """Options of `medvit merge`."""

    datasets: tuple[Path, ...] = Field(min_length=1)
    """Dataset folders made by ingest, as in datasets=[runs/ct,runs/mr]."""
    output: Path
    """New folder for the dataset."""
    slices: int = Field(default=0, ge=0)
    """Replace each volume by this many evenly spaced slices, perpendicular to the axis with the largest spacing. The
    value 0 keeps the volumes.
    """
    measures: tuple[Measure, ...] = ()
    """Labels to measure from label maps, for each class except the background, such as present_liver for class liver.
    present: yes or no. volume_ml: volume in mL. area_mm2: area in mm2, for 2D images. objects: number of connected
    regions.
    """
    engine: EngineConfig = Field(default_factory=EngineConfig)
    label_maps: LabelMaps = "equal"
    """Label maps to keep. equal: all label maps if all datasets have the same classes, else none. union: all label
    maps, with the classes of all datasets, merged by name. A class that a dataset lacks then counts as not annotated in
    the images of this dataset (partial labels).
    """


@stage
def merge(config: MergeConfig, run: Run) -> Manifest:
    """Merge several datasets and keep their splits. An image in several splits is kept in only one."""
    parts = [run.dataset(folder, f"dataset-{number}") for number, folder in enumerate(config.datasets, 1)]

    name = config.output.absolute().name
    merged = merge_datasets(parts, run.folder, name=name, slices=config.slices, label_maps=config.label_maps)
    manifest = measured(without_measures(merged.manifest, config.measures), config.measures, engine=config.engine)

    if merged.left_out:
        log.warning(
            "%d images are excluded, since a stricter split (test, calibration, val, train) has the same image or "
            "patient",
            len(merged.left_out),
        )
    manifest.write()
    quarantine.write(merged.left_out, run.folder)
    write_card(manifest, merged.left_out)
    record_dataset(run.tracker, manifest, "merge")
    run.keep(cards.FILE_NAME, cards.HTML, croissant.FILE_NAME)
    return manifest


def without_measures(manifest: Manifest, measures: Sequence[Measure]) -> Manifest:
    """Return a manifest without the labels that are to be measured, which the merged datasets may already have."""
    names = {label_of(measure, name) for measure in measures for name in manifest.facts.mask_classes[1:]}
    again = names & manifest.facts.classes.keys()
    if not again:
        return manifest
    log.info("the labels %s of the datasets are replaced by those measured now", ", ".join(sorted(again)))
    rows = (replace(row, labels={k: v for k, v in row.labels.items() if k not in again}) for row in manifest)
    return replace(manifest, rows=tuple(rows))
