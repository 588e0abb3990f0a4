"""Explanations of predictions: a map for each image, with checks of the map."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

from medvit.dataset.manifest import Manifest
from medvit.dataset.samples import load
from medvit.document import Picture
from medvit.errors import ConfigError, DataError, MedvitError, unexpected
from medvit.explanations.drawing import map_figure, write_map, write_overlay
from medvit.explanations.explain import explain as explained
from medvit.explanations.explain import models_of
from medvit.explanations.methods import ExplanationMethod, method_of
from medvit.explanations.options import ExplainOptions
from medvit.explanations.page import COLUMNS, ShownExplanation, doubts_about, explanations_document
from medvit.files.atomic import write_text
from medvit.inference.predictor import Predictor
from medvit.progress import with_progress
from medvit.readers.by_path import find, read
from medvit.records import Item
from medvit.stage import Run, StageConfig, stage
from medvit.summary import Summary, labeled
from medvit.tasks import TaskName
from medvit.types import Image

PAGE, TABLE = "explanations.html", "explanations.csv"


class ExplainConfig(ExplainOptions, StageConfig):
    """Options of `medvit explain`."""


@dataclass(frozen=True)
class ExplainedImage:
    """Image to explain: its name in the output, how to load it, its label, and the file it is from, if it is known."""

    name: str
    load: Callable[[], Image]
    truth: str = ""
    item: Item | None = None


@dataclass(frozen=True)
class Explanations:
    """Finished explanations: their folder, the method, and the listed images."""

    folder: Path
    method: str
    shown: tuple[ShownExplanation, ...]

    def summary(self) -> Summary:
        """Return the number of maps, and how many pass the checks."""
        lines = [f"{len(self.shown)} by {self.method}", *doubts_about(self.shown)]
        return Summary(labeled("maps", lines), {PAGE: "all maps with their checks", TABLE: "checks"})


@stage
def explain(config: ExplainConfig, run: Run) -> Explanations:
    """Draw maps of the parts of images that predictions depend on, with checks of the maps."""
    config.require_one_source()
    checkpoint = run.checkpoint(config.checkpoint).require(*get_args(TaskName))
    predictor = Predictor(checkpoint, config.device)
    method = method_of(config.method, models_of(predictor)[0])
    manifest = None if config.dataset is None else run.dataset(config.dataset)
    found = []
    chosen = _of_source(config, predictor) if manifest is None else _of_dataset(config, manifest, predictor)
    for subject in with_progress(chosen, total=len(chosen), title="Explaining", unit="image"):
        try:
            found.append(_explained(config, run.folder, predictor, method, subject))
        except ConfigError:
            raise
        except MedvitError as error:
            run.failures.append(f"{subject.name}: {error}")
        except (RuntimeError, ValueError, OSError) as error:  # a damaged array, an image too large for the device
            run.failures.append(f"{subject.name}: {unexpected(error)}")
    if not found:
        raise DataError(f"none of the images could be explained, first {run.failures[0]}")
    facts = {
        "Model": checkpoint.hash[:16],
        "Images": "one image" if manifest is None else f"{manifest.facts.name}, {config.split} split",
        "Baseline": config.baseline,
    }
    title = f"Explanations of {predictor.config.label or 'a segmentation'}: {method.title.lower()}"
    explanations_document(title, facts, method, found).write_html(run.folder / PAGE)
    write_text(run.folder / TABLE, _table(found))
    run.keep(TABLE, PAGE)
    return Explanations(run.folder, method.title.lower(), tuple(found))


def _explained(
    config: ExplainConfig, folder: Path, predictor: Predictor, method: ExplanationMethod, subject: ExplainedImage
) -> ShownExplanation:
    """Explain one image and write its files; return what is listed."""
    image = subject.load()
    found = explained(predictor, image, method, config, seed=config.seed)
    place = folder / subject.name
    place.mkdir(exist_ok=True)
    write_map(place, image, found.values, subject.item)
    if image.kind == "image":
        write_overlay(place / "overlay.png", image, found.values, is_signed=method.is_signed)
    figure = map_figure(image, found.values, is_signed=method.is_signed, label=method.title)
    picture = Picture.of("map", f"{subject.name}, {found.output}, without and with the map.", figure)
    (place / "figure.png").write_bytes(picture.png)
    return ShownExplanation(subject.name, found.output, found.value, found.checks, picture, subject.truth)


def _of_source(config: ExplainConfig, predictor: Predictor) -> list[ExplainedImage]:
    """Return the only image of a file or folder.

    Raises:
        DataError: If there is not exactly one image of the kind that the model accepts.
    """
    assert config.source is not None
    items = [item for item in find(config.source) if item.kind == predictor.kind]
    if len(items) != 1:
        raise DataError(
            f"{len(items)} {predictor.kind}s found in source; expected one: give a single file, or the folder of a "
            "single series"
        )
    return [ExplainedImage("image", partial(read, items[0], values=predictor.config.values), item=items[0])]


def _of_dataset(config: ExplainConfig, manifest: Manifest, predictor: Predictor) -> list[ExplainedImage]:
    """Return the requested images, or the first ones of the split, alternating between their classes.

    Raises:
        ConfigError: If a requested image is not in the dataset, or the model does not accept it.
        DataError: If the split has no image that the model accepts.
    """
    rows = [row for row in manifest if row.kind == predictor.kind]
    if config.images:
        known = {row.image_id: row for row in rows}
        missing = [name for name in config.images if name not in known]
        if missing:
            raise ConfigError(
                f"images names {missing[0]}, which is not among the {predictor.kind}s of {manifest.folder}; expected "
                "values of the column image_id of its manifest"
            )
        chosen = [known[name] for name in config.images]
    else:
        by_class = defaultdict(list)
        for row in rows:
            if row.split == config.split:
                by_class[row.labels.get(predictor.config.label, "")].append(row)
        longest = max(map(len, by_class.values()), default=0)
        turns = [own[n] for n in range(longest) for own in by_class.values() if n < len(own)]
        chosen = turns[: config.max_images]
        if not chosen:
            raise DataError(f"{manifest.folder}: the {config.split} split has no {predictor.kind}; give another split")
    label = predictor.config.label
    return [ExplainedImage(row.image_id, partial(load, manifest, row), row.labels.get(label, "")) for row in chosen]


def _table(shown: list[ShownExplanation]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([one.name, one.output, *(f"{number:.6g}" for number in one.numbers)] for one in shown)
    return text.getvalue()
