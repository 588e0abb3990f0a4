"""Section of a report with the nearest training images of the worst errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medvit.artifacts import Checkpoint
from medvit.dataset.manifest import Manifest
from medvit.dataset.samples import load
from medvit.dataset.thumbnails import montage, thumbnail
from medvit.document import Block, Bullets, Picture, Section, Table
from medvit.embeddings.neighbors import Neighborhood, TrainingNeighbors
from medvit.embeddings.reference import embedder_of
from medvit.embeddings.table import EmbeddingTable
from medvit.errors import ConfigError
from medvit.evaluation import Evaluation
from medvit.evaluation.part import ReportPart, ReportPlace
from medvit.evaluation.report.choice import BEST, MIDDLE, ChosenCase, choose_cases
from medvit.hardware import Device

MAX_CASES = 8
"""Maximum number of errors whose neighbors are shown."""
HEAD = ("case", "truth", "prediction", "neighbor", "image", "patient", "cosine", "labels")
ABOUT = (
    "For each of the worst errors, the training images with the most similar embeddings (cosine). Images of the same "
    "patient or study are never shown. Neighbors with the predicted label show what the model may have taken the image "
    "for; they do not show why it did, nor that the label of a neighbor is right."
)
NO_PIXELS = "The training images are not in the evaluated dataset, so only their pseudonyms and labels are shown."


@dataclass(frozen=True)
class CaseNeighbors:
    """Case of a report with the training images near it."""

    case: ChosenCase
    found: Neighborhood


def require_images(kind: str, checkpoint: Path | None) -> None:
    """Check that the evaluated model embeds images.

    Raises:
        ConfigError: If it is a model of slides, or predictions are evaluated without a model.
    """
    if checkpoint is None or kind == "slide":
        what = "stored predictions are evaluated" if checkpoint is None else "checkpoint is a model of slides"
        raise ConfigError(f"reference is for a single model of images, and {what}; remove reference")


def neighbors_part(
    manifest: Manifest,
    evaluation: Evaluation,
    checkpoint: Checkpoint,
    table: EmbeddingTable,
    *,
    number: int,
    limit: int,
    device: Device = "auto",
) -> ReportPart:
    """Return the section with the nearest training images of at most `limit` errors.

    `manifest` is the whole dataset; thumbnails are shown if it contains the training images.

    Raises:
        ConfigError: If the embeddings were made with another checkpoint.
        DataError: If the table has no training images.
    """
    embedder = embedder_of(table, "reference", checkpoint, device)
    search = TrainingNeighbors.of(table, number)
    chosen = [one for one in choose_cases(evaluation, max(limit, 1)) if one.kind not in (MIDDLE, BEST)][:MAX_CASES]
    each = [
        CaseNeighbors(one, search(embedder(load(manifest, one.row)), {one.row.patient_id}, one.row.study_id))
        for one in chosen
    ]
    section = Section("Nearest training images", _blocks(manifest, each))
    numbers = {"shown": [_plain(one) for one in each]}
    return ReportPart(ReportPlace.CASES, section, "neighbors", numbers)


def _blocks(manifest: Manifest, each: Sequence[CaseNeighbors]) -> list[Block]:
    if not each:
        return ["The model made no errors on these images."]
    warnings = [f"{one.case.row.image_id}: {warning}" for one in each for warning in one.found.warnings]
    blocks: list[Block] = [ABOUT, *([Bullets(warnings)] if warnings else [])]
    rows = {row.image_id: row for row in manifest}
    if all(near.image.image_id in rows for one in each for near in one.found.neighbors):
        lines = []
        for one in each:
            row, case = one.case.row, one.case
            shown = [("case", thumbnail(manifest, row))]
            for near in one.found.neighbors:
                title = f"{near.labels[:24]}\n{near.cosine:.3f}"
                shown.append((title, thumbnail(manifest, rows[near.image.image_id])))
            lines.append((f"{row.image_id}: {case.truth}, predicted {case.prediction}", shown))
        caption = "Errors, left, and their nearest training images with their labels and cosines."
        blocks.append([Picture.of("neighbors", caption, montage(lines))])
    else:
        blocks.append(NO_PIXELS)
    return [*blocks, Table(HEAD, [line for one in each for line in _lines(one)])]


def _lines(one: CaseNeighbors) -> list[list[str]]:
    case = one.case
    return [[case.row.image_id, case.truth, case.prediction, *line] for line in one.found.lines()]


def _plain(one: CaseNeighbors) -> dict[str, object]:
    near = [
        {"image": each.image.image_id, "cosine": each.cosine, "labels": each.image.labels}
        for each in one.found.neighbors
    ]
    return {"image": one.case.row.image_id, "neighbors": near, "warnings": list(one.found.warnings)}
