"""Robustness: the errors of a model on corrupted images of a split, by corruption and severity."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medvit.artifacts import Checkpoint
from medvit.baselines.stored import network_in, network_title
from medvit.dataset.manifest import Manifest
from medvit.dataset.samples import load
from medvit.errors import ConfigError
from medvit.evaluation.judged import Judged, judge_checkpoint
from medvit.evaluation.robustness import CLEAN, Robustness
from medvit.evaluation.robustness.options import RobustnessOptions
from medvit.evaluation.robustness.page import CorruptionExample, PresentedRobustness, robustness_document
from medvit.evaluation.robustness.predictions import predict_corrupted
from medvit.evaluation.robustness.results import robustness as scored
from medvit.evaluation.robustness.results import tree_of
from medvit.evaluation.robustness.scoring import scoring_of
from medvit.evaluation.run import notes_on_excluded
from medvit.files.atomic import write_text
from medvit.inference.predictor import Predictor
from medvit.patients import PatientCount
from medvit.records import Row
from medvit.stage import Run, StageConfig, stage
from medvit.summary import Summary, labeled
from medvit.tasks import NOUNS
from medvit.transforms.corruptions import Corruption, corruptions_of
from medvit.types import Image

log = logging.getLogger("medvit")

PAGE, SCORES = "robustness.html", "robustness.json"


class RobustnessConfig(RobustnessOptions, StageConfig):
    """Options of `medvit robustness`."""


@dataclass(frozen=True)
class RobustnessReport:
    """Finished robustness report: its folder, and the scores of the model."""

    folder: Path
    found: Robustness
    error: str
    """Name of the error."""

    def summary(self) -> Summary:
        """Return the error without corruption, and the mean error of each corruption."""
        lines = [f"no corruption: {self.found.conditions[CLEAN].error}"]
        lines += [f"{name}: {scores.mean_error}" for name, scores in self.found.corruptions.items()]
        return Summary(labeled(self.error.partition(" (")[0], lines), {PAGE: "report", SCORES: "all scores"})


@stage
def robustness(config: RobustnessConfig, run: Run) -> RobustnessReport:
    """Measure how the error of a model rises on corrupted images, by corruption and severity, with intervals."""
    manifest = run.dataset(config.dataset)
    judged = judge_checkpoint(run.checkpoint(config.checkpoint), manifest, config.evaluating(config.checkpoint))
    scoring = scoring_of(judged.predictor.config)
    reference = _reference(config, run, manifest, judged)
    measured = _images(config, judged, reference)
    predictors = [one.predictor for one in (judged, reference) if one is not None]

    first = _with_modality(load(measured, measured.rows[0]), config)
    corruptions = corruptions_of(first, config.corruptions)
    if not corruptions:
        raise ConfigError(
            f"no corruption is known for the modality {first.modality or 'unknown'}; give corruptions=[...]"
        )
    for doubt in judged.doubts:
        log.warning("%s", doubt)
    num_before = len(run.failures)
    predictions = predict_corrupted(
        measured,
        [one for one in predictors if isinstance(one, Predictor)],  # models of slides are refused above
        scoring,
        corruptions,
        config.severities,
        run.failures,
        seed=config.seed,
    )
    found, theirs = scored(predictions, scoring, resamples=config.resamples, seed=config.seed)

    excluded = notes_on_excluded(run.failures[num_before:], f"of {len(measured)} images")
    name = _reference_name(config)
    shown = PresentedRobustness(
        title=f"Robustness of {NOUNS[judged.predictor.config.kind]} on {manifest.facts.name}",
        facts=_facts(config, manifest, judged, reference, predictions.rows),
        notes=[*judged.notes, *judged.doubts, *excluded],
        scoring=scoring,
        corruptions=corruptions,
        model=found,
        reference=theirs,
        reference_name=name,
        warning=judged.warning,
    )
    examples = [_example(first, one, config) for one in corruptions]
    robustness_document(shown, examples).write_html(run.folder / PAGE)
    tree = {
        "task": judged.predictor.config.kind,
        "metric": scoring.metric,
        "error": scoring.error,
        "images": len(predictions.rows),
        "patients": len({row.patient_id for row in predictions.rows}),
        "split": config.split,
        "seed": config.seed,
        "resamples": config.resamples,
        "levels": {one.name: list(one.levels) for one in corruptions},
        "model": tree_of(found),
        **({} if theirs is None else {"reference": {"name": name, **tree_of(theirs)}}),
    }
    write_text(run.folder / SCORES, json.dumps(tree, indent=1, allow_nan=False) + "\n")
    for key, one in found.corruptions.items():
        run.tracker.metrics(one.mean_error.named(f"robustness.{key}"))
    run.keep(SCORES, PAGE)
    return RobustnessReport(run.folder, found, scoring.error)


def _reference(config: RobustnessConfig, run: Run, manifest: Manifest, judged: Judged) -> Judged | None:
    """Return the reference model with its images; None without a reference.

    Raises:
        ConfigError: If it has another task, other classes or another kind of images.
        DataError: If it is a folder of baselines without a network, or of another dataset.
    """
    if config.reference is None:
        return None
    folder = network_in(config.reference, manifest.hash) or config.reference
    checkpoint: Checkpoint = run.checkpoint(folder, "reference")
    other = judge_checkpoint(checkpoint, manifest, config.evaluating(folder))
    model, theirs = judged.predictor.config, other.predictor.config
    for what, one, two in (
        ("task", model.kind, theirs.kind),
        ("label", model.label, theirs.label),
        ("classes", model.classes, theirs.classes),
        ("kind of images", judged.predictor.kind, other.predictor.kind),
    ):
        if one != two:
            raise ConfigError(
                f"reference={config.reference}: found the {what} {two}, and the checkpoint has {one}; give a model of "
                "the same task that was trained on the same labels"
            )
    return other


def _images(config: RobustnessConfig, judged: Judged, reference: Judged | None) -> Manifest:
    """Return the images that both models may see, of at most `max_images` images."""
    measured = judged.measured
    if reference is not None:
        both = {row.image_id for row in reference.measured}
        measured = measured.filter(lambda row: row.image_id in both)
        if not measured.rows:
            raise ConfigError("model and reference have no image in common that neither was trained on")
    if config.max_images is None or len(measured) <= config.max_images:
        return measured
    patients = sorted({row.patient_id for row in measured})
    kept: set[str] = set()
    count = 0
    for index in np.random.default_rng(config.seed).permutation(len(patients)):
        own = sum(row.patient_id == patients[index] for row in measured)
        if count + own > config.max_images and kept:
            continue
        kept.add(patients[index])
        count += own
    return measured.filter(lambda row: row.patient_id in kept)


def _with_modality(image: Image, config: RobustnessConfig) -> Image:
    return image if config.modality is None else replace(image, modality=config.modality)


def _example(image: Image, corruption: Corruption, config: RobustnessConfig) -> CorruptionExample:
    severities = (0, *sorted(config.severities))
    return CorruptionExample(
        corruption, tuple(corruption(image, one, seed=config.seed) for one in severities), severities
    )


def _reference_name(config: RobustnessConfig) -> str:
    if config.reference_name or config.reference is None:
        return config.reference_name
    return network_title(config.reference) or config.reference.resolve().name


def _facts(
    config: RobustnessConfig, manifest: Manifest, judged: Judged, reference: Judged | None, rows: Sequence[Row]
) -> dict[str, str]:
    facts = {
        "Model": judged.model_hash[:16],
        "Dataset": f"{manifest.facts.name}, {manifest.hash[:16]}",
        "Trained on": judged.trained_on,
        "Split": f"{config.split}: {len(rows)} {judged.measured.rows[0].kind}s of {PatientCount.of(rows)}",
        "Intervals": f"{config.resamples} resamples of patients, seed {config.seed}",
    }
    if reference is not None:
        facts["Reference"] = f"{_reference_name(config)}, {reference.model_hash[:16]}"
    return facts
