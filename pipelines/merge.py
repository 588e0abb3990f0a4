"""Merging of datasets, to pretrain on all of them."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import Field

from medvit import cards
from medvit.cards import croissant, write_card
from medvit.dataset import quarantine
from medvit.dataset.manifest import Manifest
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
    """Replace each volume by this many evenly spaced slices, perpendicular to the axis with the largest spacing. 0
    keeps the volumes.
    """
    label_maps: LabelMaps = "equal"
    """Label maps to keep. equal: those of datasets whose classes are all the same; if they differ, all are dropped.
    union: all label maps, with the classes of all datasets together, by name. A class that a dataset lacks is then not
    annotated in its images (partial labels).
    """


@stage
def merge(config: MergeConfig, run: Run) -> Manifest:
    """Merge several datasets and keep their splits. An image in several splits is kept in only one."""
    parts = [run.dataset(folder, f"dataset-{number}") for number, folder in enumerate(config.datasets, 1)]

    name = config.output.absolute().name
    merged = merge_datasets(parts, run.folder, name=name, slices=config.slices, label_maps=config.label_maps)

    if merged.left_out:
        log.warning(
            "%d images are excluded, since a stricter split (test, val, train) has the same image or patient",
            len(merged.left_out),
        )
    merged.manifest.write()
    quarantine.write(merged.left_out, run.folder)
    write_card(merged.manifest, merged.left_out)
    run.tracker.dataset(merged.manifest.facts.name, merged.manifest.hash, "merge")
    run.keep(cards.FILE_NAME, croissant.FILE_NAME)
    return merged.manifest
