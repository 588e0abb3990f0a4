"""Job that processes the slides of one study: tile, embed, predict, write."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from medvit.config import Positive
from medvit.deidentification.pseudonyms import SiteNames
from medvit.errors import DataError
from medvit.inference.operating_points import OperatingPoint, calls
from medvit.inference.series_selection import choose
from medvit.inference.slide_predictor import SlidePredictor
from medvit.inference.study_job import notes_on_patients, with_uncertainty
from medvit.models.image import AppliesTo
from medvit.models.tile_embedder import TileLoaderConfig
from medvit.records import Item, Refusal
from medvit.types import Prediction, PredictionSet
from medvit.writers import Finding, Maker, Result, SlideContext, Study
from medvit.writers.outputs import Outputs
from medvit.writers.slide_maps import SlideFinding
from medvit.wsi.slide import MODALITY, TIFF_SUFFIXES, Slide, open_slide
from medvit.wsi.tiles import TileGrid


class SlideOptions(TileLoaderConfig):
    """Reading and embedding of slide tiles."""

    slide_mpp: Positive | None = None
    """Pixel size in microns for slides whose headers have none, or an implausible one. If set, plain TIFF images are
    read as slides, too.
    """


def as_slides(found: Iterable[Item | Refusal], options: SlideOptions) -> Iterator[Item | Refusal]:
    """Yield the items of readers; plain TIFF images become slides if the options give their microns per pixel."""
    for one in found:
        if isinstance(one, Item) and options.slide_mpp is not None and _is_plain(one):
            yield replace(one, reader="slide", kind="slide", modality=MODALITY)
        else:
            yield one


def _is_plain(item: Item) -> bool:
    return item.kind == "image" and item.files[0].name.lower().endswith(TIFF_SUFFIXES)


CutTiles = Callable[[Slide], TileGrid]
"""Type of a function that finds the tiles to process in a slide."""


@dataclass(frozen=True)
class OpenFiles:
    """Function object that opens the slide stored in `files`, and keeps it open in each process that calls it."""

    files: tuple[Path, ...]
    mpp: float | None = None

    def __call__(self) -> Slide:
        """Return the open slide.

        Raises:
            DataError: If the slide cannot be read, or its microns per pixel are neither stored nor given.
        """
        key = (os.getpid(), self.files)
        if key not in _OPEN:
            for (process, _), slide in _OPEN.items():  # one slide at a time
                slide.close() if process == os.getpid() else None  # slides opened before a fork belong to its parent
            _OPEN.clear()
            _OPEN[key] = open_slide(self.files, self.mpp)
        return _OPEN[key]


_OPEN: dict[tuple[int, tuple[Path, ...]], Slide] = {}


@dataclass(frozen=True)
class SlideJob:
    """Job that processes slides with one model; call it with a study and the folder for its outputs."""

    predict: SlidePredictor
    applies_to: AppliesTo
    names: SiteNames
    maker: Maker
    cut: CutTiles
    options: SlideOptions = field(default_factory=SlideOptions)
    series: Literal["all", "one"] = "all"
    codes: Mapping[str, str] = field(default_factory=dict)
    outputs: Outputs = field(default_factory=lambda: Outputs.of(None, "slide"))
    points: Sequence[OperatingPoint] = ()
    """Operating points at which calls are made."""

    def __call__(self, study: Study, folder: Path) -> Result:
        """Return the result for the slides of a study.

        Raises:
            NoSeriesError: If the study has no slide.
            DataError: If a slide cannot be read, has no microns per pixel, or no tissue.
        """
        if self.options.slide_mpp is None and study.items and all(map(_is_plain, study.items)):
            raise DataError(
                "the image does not state a pixel size; if it is a slide, give its microns per pixel as "
                "tiles.slide_mpp=..."
            )
        items = choose(study, self.applies_to, self.series)
        findings: list[Finding] = []
        notes = notes_on_patients(study)
        for item in items:
            name = self.names.series(study.series_key(item))
            place = folder / name if len(items) > 1 else folder
            place.mkdir(exist_ok=True)
            opened = OpenFiles(item.files, self.options.slide_mpp)
            found = self._find(opened, place)
            findings += self._findings(found, name)
            findings += calls(self.points, found.classes, found.reading.probabilities, name)
            context = SlideContext(item, self.maker, self.codes, slide=opened(), prediction=found)
            notes += self.outputs.write(context, place)
        outputs = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        return Result("done", reason="; ".join(notes), outputs=tuple(outputs), findings=tuple(findings))

    def _findings(self, found: SlideFinding, name: str) -> list[Finding]:
        config, reading = self.predict.config, found.reading
        pairs = zip(found.classes, reading.probabilities, strict=True)
        members = reading.members if len(reading.members) > 1 else None
        prediction = Prediction(found.classes, probabilities=reading.probabilities, members=members)
        if config.conformal is not None:
            (is_in,) = config.conformal.sets(reading.probabilities[None])
            prediction = replace(prediction, prediction_set=PredictionSet(config.conformal.coverage, is_in))
        each = [Finding(name, label, probability=float(value)) for label, value in pairs]
        return with_uncertainty(each, prediction, config.kind)

    def _find(self, opened: OpenFiles, work: Path) -> SlideFinding:
        slide = opened()
        grid = self.cut(slide)
        reading = self.predict(opened, grid, self.options, work)
        return SlideFinding(grid, reading, self.predict.config.classes, slide.shape, slide.mpp)
