"""One slide from its files to its results: cut into tiles, embed, predict, write."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from medvit.config import Positive
from medvit.deidentification.pseudonyms import SiteNames
from medvit.errors import DataError
from medvit.inference.series_selection import choose
from medvit.inference.slide_predictor import SlidePredictor
from medvit.inference.study_job import notes_on_patients
from medvit.models.image import AppliesTo
from medvit.models.tile_embedder import TileLoaderConfig
from medvit.records import Item, Refusal
from medvit.writers import Finding, Maker, Result, Study
from medvit.writers.dicom_ann import write_ann
from medvit.writers.geojson import write_geojson
from medvit.writers.heatmap import write_heatmap
from medvit.writers.optional import write_optional
from medvit.writers.slide_maps import SlideFinding, attention_map, class_map
from medvit.writers.slide_preview import write_slide_preview
from medvit.writers.source_instances import read_sources
from medvit.wsi.slide import MODALITY, TIFF_SUFFIXES, Slide, open_slide
from medvit.wsi.tiles import TileGrid

PREVIEW, ATTENTION, TILES, ANNOTATIONS = "preview.png", "attention.tif", "tiles.geojson", "annotations.dcm"


class SlideOptions(TileLoaderConfig):
    """How tiles of slides are read and embedded."""

    slide_mpp: Positive | None = None
    """Microns per pixel of slides whose headers do not say it, or say what no microscope has; with it,
    plain TIFF pictures are slides, too."""


def as_slides(found: Iterable[Item | Refusal], options: SlideOptions) -> Iterator[Item | Refusal]:
    """What readers found, plain TIFF pictures as slides if the microns per pixel of such were given."""
    for one in found:
        if isinstance(one, Item) and options.slide_mpp is not None and _is_plain(one):
            yield replace(one, reader="slide", kind="slide", modality=MODALITY)
        else:
            yield one


def _is_plain(item: Item) -> bool:
    return item.kind == "image" and item.files[0].name.lower().endswith(TIFF_SUFFIXES)


CutTiles = Callable[[Slide], TileGrid]
"""Finds the tiles of a slide that are worth a look."""


@dataclass(frozen=True)
class OpenFiles:
    """Opens the slide of some files, once in each process that reads it."""

    files: tuple[Path, ...]
    mpp: float | None = None

    def __call__(self) -> Slide:
        """The open slide.

        Raises:
            DataError: If it says no microns per pixel and none are given, or cannot be read.
        """
        key = (os.getpid(), self.files)
        if key not in _OPEN:
            for (process, _), slide in _OPEN.items():  # one at a time
                slide.close() if process == os.getpid() else None  # what was opened before a fork is its parent's
            _OPEN.clear()
            _OPEN[key] = open_slide(self.files, self.mpp)
        return _OPEN[key]


_OPEN: dict[tuple[int, tuple[Path, ...]], Slide] = {}


@dataclass(frozen=True)
class SlideJob:
    """Does one slide after the other with one model; call it with a study and the folder for its objects."""

    predict: SlidePredictor
    applies_to: AppliesTo
    names: SiteNames
    maker: Maker
    cut: CutTiles
    options: SlideOptions = field(default_factory=SlideOptions)
    series: Literal["all", "one"] = "all"
    codes: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, study: Study, folder: Path) -> Result:
        """What came of the slides of a study.

        Raises:
            NoSeriesError: If it has no slide.
            DataError: If a slide cannot be read, does not say its microns per pixel, or has no tissue.
        """
        if self.options.slide_mpp is None and study.items and all(map(_is_plain, study.items)):
            raise DataError("a plain picture says no microns per pixel; if it is a slide, give tiles.slide_mpp=...")
        items = choose(study, self.applies_to, self.series)
        findings: list[Finding] = []
        notes = notes_on_patients(study)
        for item in items:
            name = self.names.series(study.series_key(item))
            place = folder / name if len(items) > 1 else folder
            place.mkdir(exist_ok=True)
            opened = OpenFiles(item.files, self.options.slide_mpp)
            found = self._find(opened, place)
            pairs = zip(found.classes, found.reading.probabilities, strict=True)
            findings += [Finding(name, label, probability=float(value)) for label, value in pairs]
            notes += self._write(item, opened(), found, place)
        outputs = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        return Result("done", reason="; ".join(notes), outputs=tuple(outputs), findings=tuple(findings))

    def _find(self, opened: OpenFiles, work: Path) -> SlideFinding:
        slide = opened()
        grid = self.cut(slide)
        reading = self.predict(opened, grid, self.options, work)
        return SlideFinding(grid, reading, self.predict.config.classes, slide.shape, slide.mpp)

    def _write(self, item: Item, slide: Slide, found: SlideFinding, folder: Path) -> list[str]:
        preview, attention, tiles = folder / PREVIEW, folder / ATTENTION, folder / TILES
        notes = write_optional("preview", preview, lambda: write_slide_preview(preview, slide, found))
        notes += write_optional(
            "map of attention", attention, lambda: write_heatmap(attention, attention_map(found), "attention")
        )
        for label in found.heat_classes():
            name = re.sub(r"[^A-Za-z0-9]+", "-", found.classes[label]).strip("-")
            path = folder / f"class-{label}-{name}.tif"
            write = partial(_write_class_map, path, found, label)
            notes += write_optional(f"map of class {label}", path, write)
        notes += write_optional("GeoJSON of the tiles", tiles, lambda: write_geojson(tiles, found))
        if item.identity.series:  # only DICOM names series
            path = folder / ANNOTATIONS
            notes += write_optional("DICOM annotations", path, lambda: self._write_ann(item, found, path))
        return notes

    def _write_ann(self, item: Item, found: SlideFinding, path: Path) -> Sequence[str]:
        sources = read_sources(item)
        write_ann(path, found, sources, self.maker, self.codes)
        return sources.notes


def _write_class_map(path: Path, found: SlideFinding, label: int) -> None:
    write_heatmap(path, class_map(found, label), "class")
