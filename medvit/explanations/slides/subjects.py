"""Slides to explain: one of a dataset, whose tiles are listed, or a file, whose tiles are found as in training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from medvit.dataset.manifest import Manifest
from medvit.document import Picture
from medvit.errors import ConfigError, DataError
from medvit.explanations.chosen import chosen_rows
from medvit.explanations.options import ExplainOptions
from medvit.explanations.page import ShownExplanation
from medvit.explanations.slides.drawing import slide_map_figure, write_map_tiff, write_slide_overlay, write_tiles
from medvit.explanations.slides.explain import explain_slide
from medvit.explanations.slides.methods import SlideMethod, TilePlaces
from medvit.inference.jobs import tiles_as_trained
from medvit.inference.slide_job import OpenFiles, as_slides
from medvit.inference.slide_predictor import SlidePredictor
from medvit.models.embedding_store import Embeddings
from medvit.readers.by_path import find
from medvit.records import Item, Row
from medvit.writers.slide_maps import SlideFinding
from medvit.wsi.locations import open_row
from medvit.wsi.slide import Slide
from medvit.wsi.tiles import TileGrid


@dataclass(frozen=True)
class ReadySlide:
    """Open slide with its tiles and their embeddings."""

    slide: Slide
    grid: TileGrid
    embeddings: Embeddings


@dataclass(frozen=True)
class ExplainedSlide:
    """Slide to explain: its name in the output, how to open and embed it, and its label."""

    name: str
    ready: Callable[[], AbstractContextManager[ReadySlide]]
    truth: str = ""


def require_slide_options(options: ExplainOptions) -> None:
    """Check that no option is set that has no effect for a model of slides and this source.

    Raises:
        ConfigError: If one is; the message names it.
    """
    without_effect = {
        "baseline": "tiles are left out, without a baseline",
        "steps": "integrated gradients are not available for slides",
    }
    for key, reason in without_effect.items():
        if key in options.model_fields_set:
            raise ConfigError(f"{key} has no effect for a model of slides: {reason}; remove {key}")
    if options.source is not None and "slides" in options.model_fields_set:
        raise ConfigError("slides is an option for a dataset, and source is given; remove slides")
    if options.dataset is not None and options.tiles.slide_mpp is not None:
        raise ConfigError("tiles.slide_mpp is an option for source, and dataset is given; remove tiles.slide_mpp")


def slides_of_dataset(options: ExplainOptions, manifest: Manifest, predictor: SlidePredictor) -> list[ExplainedSlide]:
    """Return the requested slides of a dataset.

    Raises:
        ConfigError: If a requested slide is not in the dataset.
        DataError: If the split has no slide.
    """
    label = predictor.config.label
    return [
        ExplainedSlide(row.image_id, partial(_of_row, row, manifest, options, predictor), row.labels.get(label, ""))
        for row in chosen_rows(options, manifest, "slide", label)
    ]


def slide_of_source(options: ExplainOptions, predictor: SlidePredictor, work: Path) -> ExplainedSlide:
    """Return the only slide of a file or folder; its embeddings are stored in a temporary file in `work`.

    Raises:
        DataError: If there is not exactly one slide.
    """
    assert options.source is not None
    items = [
        item
        for item in as_slides(find(options.source), options.tiles)
        if isinstance(item, Item) and item.kind == "slide"
    ]
    if len(items) != 1:
        raise DataError(
            f"{len(items)} slides found in source; expected one: give a single file, or the folder of a single slide, "
            "and tiles.slide_mpp if the file does not state a pixel size"
        )
    opened = OpenFiles(items[0].files, options.tiles.slide_mpp)
    return ExplainedSlide("slide", partial(_of_files, opened, options, predictor, work))


def explain_and_write(
    subject: ExplainedSlide, folder: Path, predictor: SlidePredictor, method: SlideMethod, options: ExplainOptions,
    *, seed: int,
) -> ShownExplanation:  # fmt: skip
    """Explain a slide, write its files into a folder, and return what is listed on the page.

    Raises:
        ConfigError: If the model has no class `options.target`.
        DataError: If the slide cannot be read, or has fewer than two tiles.
    """
    with subject.ready() as one:
        slide = one.slide
        places = TilePlaces(one.grid.xy, one.grid.side(slide.mpp), slide.shape)
        found = explain_slide(predictor, one.embeddings, places, method, options, seed=seed)
        finding = SlideFinding(one.grid, found.reading, predictor.config.classes, slide.shape, slide.mpp)
        folder.mkdir(exist_ok=True)
        write_tiles(folder / "tiles.csv", finding, found.values)
        write_map_tiff(folder / "map.tif", finding, found.values, is_signed=method.is_signed)
        write_slide_overlay(folder / "overlay.png", slide, finding, found.values, is_signed=method.is_signed)
        figure = slide_map_figure(slide, finding, found.values, is_signed=method.is_signed, label=method.title)
    caption = f"{subject.name}, {found.output}, without and with the map, and the tiles with the highest values."
    picture = Picture.of("map", caption, figure)
    (folder / "figure.png").write_bytes(picture.png)
    return ShownExplanation(subject.name, found.output, found.value, found.checks, picture, subject.truth)


@contextmanager
def _of_row(row: Row, manifest: Manifest, options: ExplainOptions, predictor: SlidePredictor) -> Iterator[ReadySlide]:
    (found,) = predictor.embed(replace(manifest, rows=(row,)), options.slides, options.tiles, [])
    yield ReadySlide(open_row(row, options.slides.key, options.slides.folder), found.grid, found.embeddings)


@contextmanager
def _of_files(
    opened: OpenFiles, options: ExplainOptions, predictor: SlidePredictor, work: Path
) -> Iterator[ReadySlide]:
    slide = opened()
    grid = tiles_as_trained(predictor.config.tiles)(slide)
    with predictor.embedded(opened, grid, options.tiles, work) as embeddings:
        yield ReadySlide(slide, grid, embeddings)
