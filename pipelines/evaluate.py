"""Evaluation of a fine-tuned model on one split of a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from pydantic import Field
from tqdm import tqdm

from medvit.artifacts import Lineage, Report
from medvit.dataset import load
from medvit.errors import DataError
from medvit.evaluation import Estimate, Evaluation
from medvit.evaluation.classification import evaluate_classes
from medvit.evaluation.paired import paired_differences
from medvit.evaluation.plots import overlay_figure
from medvit.evaluation.report import HTML, METRICS, TABLE, Example, Subject, metric_name, write_report
from medvit.evaluation.segmentation import evaluate_masks, score_case
from medvit.inference.predictor import Device, Predictor
from medvit.manifest import Manifest
from medvit.samples import Image, Prediction, Row, Split
from medvit.stage import Run, StageConfig, stage


class EvaluateConfig(StageConfig):
    """Options of `medvit evaluate`."""

    checkpoint: Path
    """Model made by finetune."""
    dataset: Path
    """Dataset folder made by ingest."""
    output: Path
    """Report folder to make."""
    split: Split = "test"
    """Split to measure on: train, val or test."""
    against: Path | None = None
    """Report of another model on the same split; the differences are reported with intervals."""
    nsd_tolerance_mm: float = Field(1.0, gt=0)
    """Distance within which two surfaces count as one in normalized surface Dice."""
    resamples: int = Field(1000, ge=100)
    """Bootstrap resamples."""
    device: Device = "auto"
    """Where the model runs."""


@stage
def evaluate(config: EvaluateConfig, run: Run) -> Report:
    """Measures a model on a split it was not trained on, with intervals, and writes a report."""
    checkpoint = run.checkpoint(config.checkpoint).require("classification", "segmentation")
    manifest = run.dataset(config.dataset)
    predictor = Predictor(checkpoint, config.device)
    answered, notes = answerable(manifest.split(config.split), predictor)

    evaluation = measure(answered, predictor, config, notes)
    differences = compare(evaluation, config)

    subject = describe(config, manifest, checkpoint.hash, len(answered), evaluation)
    examples = telling_cases(answered, predictor, evaluation) if evaluation.kind == "segmentation" else []
    write_report(run.folder, subject, evaluation, examples=examples, differences=differences)
    _tell(evaluation.metrics, f"{config.split} split, {len(answered)} images")
    _tell(differences, "difference from the other report")
    run.tracker.metrics({f"{config.split}.{name}": estimate.value for name, estimate in evaluation.metrics.items()})
    run.keep(METRICS, HTML)
    return Report(run.folder, {name: estimate.value for name, estimate in evaluation.metrics.items()})


def answerable(manifest: Manifest, predictor: Predictor) -> tuple[Manifest, list[str]]:
    """The images whose truth is known in the model's own classes, and a note on those left out.

    Raises:
        DataError: If there is none, or the dataset's classes are not the model's.
    """
    model, facts = predictor.config, manifest.facts
    known = facts.mask_classes if model.kind == "segmentation" else facts.classes.get(model.label, ())
    if tuple(known) != model.classes:
        raise DataError(
            f"{manifest.folder}: the model tells {', '.join(model.classes)} apart, "
            f"the dataset {', '.join(known) or 'nothing of the kind'}; evaluate it on a dataset of the same classes"
        )
    kept = manifest.filter(
        lambda row: (
            row.kind == predictor.preprocess.kind
            and (bool(row.mask) if model.kind == "segmentation" else model.label in row.labels)
        )
    )
    if not kept.rows:
        raise DataError(f"{manifest.folder}: no image of this split has the truth for a {model.kind}")
    left_out = len(manifest) - len(kept)
    return kept, [f"{left_out} images of the split have no truth and were left out"] if left_out else []


def measure(manifest: Manifest, predictor: Predictor, config: EvaluateConfig, notes: list[str]) -> Evaluation:
    """Predicts every image and computes all metrics with their intervals."""
    classes = predictor.config.classes
    if predictor.config.kind == "segmentation":
        scores = [
            score_case(image.mask, prediction.mask, classes, spacing(image), tolerance_mm=config.nsd_tolerance_mm)
            for _, image, prediction in predicted(manifest, predictor)
            if image.mask is not None and prediction.mask is not None
        ]
        return evaluate_masks(manifest.rows, scores, classes, resamples=config.resamples, seed=config.seed, notes=notes)
    truth = np.array([classes.index(row.labels[predictor.config.label]) for row in manifest])
    found = [prediction.probabilities for _, _, prediction in predicted(manifest, predictor)]
    probabilities = np.stack([one for one in found if one is not None])
    return evaluate_classes(
        manifest.rows, truth, probabilities, classes, resamples=config.resamples, seed=config.seed, notes=notes
    )


def predicted(manifest: Manifest, predictor: Predictor) -> Iterator[tuple[Row, Image, Prediction]]:
    """Each image of a manifest with what the model says of it, behind a progress bar."""
    for row in tqdm(manifest, total=len(manifest), desc="Evaluating", unit="image", mininterval=0.5):
        image = load(manifest, row)
        yield row, image, predictor(image)


def spacing(image: Image) -> tuple[float, ...]:
    """Spacing of an image in mm; where it has none, one pixel counts as one millimeter."""
    if image.affine is not None:
        return image.affine.spacing_mm
    return ((image.mpp or 1000.0) / 1000.0,) * (image.pixels.ndim - 1)


def compare(evaluation: Evaluation, config: EvaluateConfig) -> dict[str, Estimate]:
    """The differences from the report named in `against`; none where none is.

    Raises:
        DataError: If that folder holds no report.
    """
    if config.against is None:
        return {}
    path = config.against / TABLE
    if not path.is_file():
        raise DataError(f"{config.against} is not a report: no {TABLE} in it; give the output of evaluate")
    table = pq.read_table(path)
    other = {name: table[name].to_numpy() for name in table.column_names}
    rows = {
        "image_id": [row.image_id for row in evaluation.rows],
        "patient_id": [row.patient_id for row in evaluation.rows],
    }
    one = {name: np.array(values) for name, values in rows.items()} | dict(evaluation.columns)
    return paired_differences(one, other, evaluation.classes, resamples=config.resamples, seed=config.seed)


def describe(config: EvaluateConfig, manifest: Manifest, digest: str, num_images: int, found: Evaluation) -> Subject:
    """What was evaluated on what, and a warning where the numbers flatter."""
    lineage = Lineage.read(config.checkpoint)
    same = lineage is not None and lineage.inputs.get("dataset") == manifest.hash
    warning = ""
    if config.split != "test" and same:
        use = "learned from" if config.split == "train" else "chosen by"
        warning = f"These are images of the {config.split} split: the model was {use} them, so the numbers flatter it."
    facts = {
        "Model": digest[:16],
        "Dataset": f"{manifest.facts.name}, {manifest.hash[:16]}",
        "Trained on": "the train split of the same dataset" if same else "another dataset",
        "Split": f"{config.split}: {num_images} images of {len({row.patient_id for row in found.rows})} patients",
    }
    return Subject(f"Evaluation of a {found.kind} on {manifest.facts.name}", facts, warning)


def telling_cases(manifest: Manifest, predictor: Predictor, evaluation: Evaluation) -> list[Example]:
    """The best, the median and the worst image by mean Dice, with contours of truth and finding."""
    dice = evaluation.columns["dice"]
    order = [int(index) for index in np.argsort(dice) if not np.isnan(dice[index])]
    if not order:
        return []
    chosen = {"best": order[-1], "median": order[len(order) // 2], "worst": order[0]}
    examples = []
    for name, index in chosen.items():
        image = load(manifest, manifest.rows[index])
        mask = predictor(image).mask
        assert image.mask is not None
        assert mask is not None
        figure = overlay_figure(image.intensities()[0], image.mask, mask, spacing(image))
        examples.append(Example(f"{name}: Dice {dice[index]:.3f} (green truth, orange found)", figure))
    return examples


def _tell(estimates: Mapping[str, Estimate], title: str) -> None:
    if estimates:
        print(f"\n{title}: value [95 % interval]")
        for name, estimate in estimates.items():
            print(f"  {metric_name(name):32s} {estimate}")
