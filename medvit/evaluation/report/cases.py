"""Cases of a report: a table of the worst errors, a median and a best case, whose pictures can be enlarged."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image as Pillow

from medvit.attributes import LATERALITY
from medvit.dataset.manifest import Manifest
from medvit.dataset.samples import load
from medvit.document import Case, Gallery, Picture, Section
from medvit.document.colors import class_colors
from medvit.evaluation import Evaluation
from medvit.evaluation.fact import Fact
from medvit.evaluation.options import EvaluationOptions
from medvit.evaluation.part import ReportPart, ReportPlace
from medvit.evaluation.report.case_figure import THUMBNAIL_INCHES, CaseImage, case_pictures
from medvit.evaluation.report.choice import ChosenCase, choose_cases
from medvit.evaluation.report.slide_figure import slide_figure
from medvit.evaluation.run import ImagePredictor
from medvit.evaluation.tasks.segmentation import counted_classes, spacing, unit_of
from medvit.inference.slide_predictor import SlidePredictor
from medvit.records import IGNORED, Row
from medvit.writers.slide_maps import SlideFinding
from medvit.wsi.locations import open_row

MAX_SLIDES = 6
"""Maximum number of slides that are shown, since drawing one takes seconds."""
THUMBNAIL_PIXELS = round(THUMBNAIL_INCHES * 128)
HEAD = ("case", "truth", "prediction", "score", "image and patient")
ORDER = "The worst errors come first; at the end, a median and a best case, if they are not among the errors."
PLANES = "The planes pass through the largest disagreement between truth and prediction."
MARKS = "Outlines are the truth, filled areas the prediction, in one color per class."
LETTERS = "Letters name the side of the patient: R right, L left, A anterior, P posterior, S superior, I inferior."
NO_LETTERS = "The source does not record which side of an image is which, so there are no letters for the sides."
NO_SCALE = "The images have no physical scale; scale bars are in pixels."


def cases_part(
    manifest: Manifest,
    predictor: ImagePredictor | SlidePredictor,
    evaluation: Evaluation,
    options: EvaluationOptions,
) -> list[ReportPart]:
    """Return the section with the cases; no section if `options.cases` is 0.

    Its numbers in `metrics.json` are the pseudonyms of the cases and the kinds of their errors.
    """
    if not options.cases:
        return []
    limit = min(options.cases, MAX_SLIDES) if isinstance(predictor, SlidePredictor) else options.cases
    chosen = choose_cases(evaluation, limit, lambda row: _lesion_size(manifest, row))
    if isinstance(predictor, SlidePredictor):
        pictures, colors = _slides(manifest, predictor, options, chosen), {}
    else:
        pictures, colors = _images(manifest, predictor, chosen), _legend(manifest, predictor, evaluation)
    cases = [Case(*pair, _cells(one)) for pair, one in zip(pictures, chosen, strict=True)]
    section = Section("Cases", [*_explanations(manifest, colors), Gallery(HEAD, cases, colors)])
    facts = frozenset({Fact.FAILURES} if cases else ())
    return [ReportPart(ReportPlace.CASES, section, "cases", {"shown": [_plain(one) for one in chosen]}, facts=facts)]


def _legend(manifest: Manifest, predictor: ImagePredictor, evaluation: Evaluation) -> dict[str, str]:
    """Return the colors of the classes that are drawn: those of the label maps of the dataset."""
    has_masks = evaluation.kind == "segmentation" or any(row.mask for row in evaluation.rows)
    classes = predictor.config.classes if evaluation.kind == "segmentation" else manifest.facts.mask_classes
    return class_colors(classes) if has_masks else {}


def _explanations(manifest: Manifest, colors: dict[str, str]) -> list[str]:
    kinds = {row.kind for row in manifest}
    sentences = [ORDER, *([MARKS] if colors else [])]
    if "volume" in kinds and colors:
        sentences.append(PLANES)
    if kinds & {"volume", "image"}:
        has_letters = any(row.kind == "volume" and row.affine is not None for row in manifest)
        sentences.append(LETTERS if has_letters else NO_LETTERS)
    if "slide" not in kinds and unit_of(manifest) == "px":
        sentences.append(NO_SCALE)
    return [" ".join(sentences)]


def _lesion_size(manifest: Manifest, row: Row) -> float:
    if row.mask is None:
        return 0.0
    mask = load(manifest, row).mask
    return 0.0 if mask is None else float(((mask > 0) & (mask != IGNORED)).sum())


def _images(
    manifest: Manifest, predictor: ImagePredictor, chosen: Sequence[ChosenCase]
) -> Iterator[tuple[Picture, Picture]]:
    """Yield thumbnail and picture of each case, with its label maps if it has any.

    Predictions that do not count, as in ignored pixels, are not drawn.
    """
    unit = unit_of(manifest)
    for number, one in enumerate(chosen):
        image = load(manifest, one.row)
        nothing = np.zeros(image.pixels.shape[1:], dtype=np.uint8)
        truth, found = nothing if image.mask is None else image.mask, nothing
        if predictor.config.kind == "segmentation":
            mask = predictor(image).mask
            assert mask is not None, "a segmentation model predicts masks"
            found = counted_classes(truth, mask, manifest.facts.mask_classes, one.row.annotated)
        has_sides = image.affine is not None
        case = CaseImage(image.without_gaps().intensities(), truth, found, spacing(image, unit), unit, has_sides)
        yield case_pictures(f"case-{number + 1}", _caption(one), case)


def _slides(
    manifest: Manifest, predictor: SlidePredictor, options: EvaluationOptions, chosen: Sequence[ChosenCase]
) -> Iterator[tuple[Picture, Picture]]:
    """Yield thumbnail and picture of each slide: attention maps, class maps and top tiles."""
    for number, one in enumerate(chosen):
        manifest_of_one = replace(manifest, rows=(one.row,))
        (found,) = predictor.embed(manifest_of_one, options.slides, options.tiles, [])
        slide = open_row(one.row, options.slides.key, options.slides.folder)
        finding = SlideFinding(
            found.grid, predictor.read(found.embeddings), predictor.config.classes, slide.shape, slide.mpp
        )
        picture = Picture.of(f"case-{number + 1}", _caption(one), slide_figure(slide, finding, predictor))
        yield _thumbnail(picture), picture


def _thumbnail(picture: Picture) -> Picture:
    reduced = io.BytesIO()
    with Pillow.open(io.BytesIO(picture.png)) as whole:
        whole.thumbnail((2 * THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
        whole.save(reduced, "PNG")
        width = whole.width
    return Picture(f"{picture.name}-small", picture.caption, reduced.getvalue(), width)


def _cells(one: ChosenCase) -> list[str]:
    side = one.row.attributes.get(LATERALITY, "")
    names = f"{one.row.image_id}\npatient {one.row.patient_id}" + (f"\nside {side}" if side else "")
    return [one.kind, one.truth, one.prediction, one.score, names]


def _caption(one: ChosenCase) -> str:
    score = f", {one.score}" if one.score else ""
    return f"{one.kind}: truth {one.truth}, prediction {one.prediction}{score}, image {one.row.image_id}"


def _plain(one: ChosenCase) -> dict[str, str]:
    return {"image_id": one.row.image_id, "patient_id": one.row.patient_id, "kind": one.kind}
