"""Choice of the job that processes studies, according to the kind of model and the options of inference."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from medvit.artifacts import Checkpoint
from medvit.deidentification.pseudonyms import SiteNames
from medvit.embeddings.reference import CohortReference
from medvit.errors import ConfigError
from medvit.inference.operating_points import OperatingPoint
from medvit.inference.options import PredictionOptions
from medvit.inference.predictor import Predictor
from medvit.inference.review.gate import QualityGate
from medvit.inference.slide_job import CutTiles, SlideJob
from medvit.inference.slide_predictor import SlidePredictor
from medvit.inference.stack_job import StackJob
from medvit.inference.stack_predictor import StackPredictor, reading_of
from medvit.inference.study_job import StudyJob
from medvit.models.slide import TileSpec
from medvit.readers.options import ValuesConfig
from medvit.types import Image, Prediction
from medvit.writers import Maker, writer
from medvit.writers.dicom_parts.coded_terms import check_codes
from medvit.writers.outputs import Outputs, needs_probabilities
from medvit.wsi.locations import SlidesConfig
from medvit.wsi.tiling import TilesConfig, cut

log = logging.getLogger("medvit")


def make_job(
    options: PredictionOptions,
    checkpoint: Checkpoint,
    names: SiteNames,
    maker: Maker,
    points: Sequence[OperatingPoint] = (),
) -> StudyJob | SlideJob:
    """Return the job that processes studies with the model of a checkpoint, with calls at its operating points.

    Raises:
        ConfigError: If an output format does not apply to the kind of model, a code is for a class that the model does
            not have, or the pixel values are not those that the model was trained on.
    """
    _require_reference_for_neighbors(options)
    outputs = Outputs.of(options.outputs, checkpoint.kind)
    if options.codes and not any(name.startswith("dicom_") for name in outputs.names):
        log.warning("codes is ignored: no DICOM output is written")
    if checkpoint.kind == "slide":
        _require_no_reference(options, "a model of slides")
        _require_no_dropout(options, "a model of slides")
        slides = SlidePredictor(checkpoint, options.device)
        if options.patch_size is not None:
            log.warning("patch_size is ignored: the embeddings of slides have the patch size of their backbone")
        check_codes(options.codes, slides.config.classes)
        rule = options.applies_to.over(slides.config.applies_to)
        series: Literal["all", "one"] = "one" if options.series == "one" else "all"
        cut_tiles = tiles_as_trained(slides.config.tiles)
        return SlideJob(slides, rule, names, maker, cut_tiles, options.tiles, series, options.codes, outputs, points)
    predictor = Predictor(
        checkpoint,
        options.device,
        options.horizons,
        patch_size=options.patch_size,
        keeps_probabilities=outputs.needs_probabilities,
        mc_dropout=options.mc_dropout or 0,
    )
    check_codes(options.codes, predictor.config.classes)
    rule = options.applies_to.over(predictor.config.applies_to)
    values = values_as_trained(options.values, predictor.config.values)
    reference = None
    if options.reference is not None:
        reference = CohortReference.of(options.reference, checkpoint, options.device, num_neighbors=options.neighbors)
    return StudyJob(
        predictor,
        rule,
        names,
        maker,
        options.series,
        options.codes,
        values,
        outputs,
        points,
        predictor.config.kind,
        reference,
        QualityGate.read(checkpoint.folder),
    )


def make_stack_job(
    options: PredictionOptions,
    checkpoints: Mapping[str, Checkpoint],
    names: SiteNames,
    makers: Mapping[str, Maker],
    points: Mapping[str, Sequence[OperatingPoint]],
) -> StackJob:
    """Return the job that processes studies with several models on one backbone, keyed by name in `checkpoints`.

    `points` are the operating points of models, keyed by the name of the model.

    Raises:
        CheckpointError: If the checkpoints do not share one backbone.
        ConfigError: As `make_job`, if an option fits none of the models.
    """
    _require_reference_for_neighbors(options)
    _require_no_reference(options, "several models")
    _require_no_dropout(options, "several models")
    keeps_probabilities = any(needs_probabilities(writer(name)) for name in options.outputs or ())
    predictor = StackPredictor(checkpoints, options.device, options.horizons, keeps_probabilities=keeps_probabilities)
    check_codes(options.codes, tuple(dict.fromkeys(n for one in predictor.configs.values() for n in one.classes)))
    readings: dict[str, dict[str, StudyJob]] = {}
    for name, config in predictor.configs.items():
        outputs = _outputs_of(options.outputs, config.kind, {one.kind for one in predictor.configs.values()})
        codes = {label: code for label, code in options.codes.items() if label in config.classes}
        values = values_as_trained(options.values, config.values)
        job = StudyJob(
            partial(_not_alone, name),
            options.applies_to.over(config.applies_to),
            names,
            makers[name],
            options.series,
            codes,
            values,
            outputs,
            points.get(name, ()),
            config.kind,
            gate=QualityGate.read(checkpoints[name].folder),
        )
        readings.setdefault(reading_of(checkpoints[name]), {})[name] = job
    return StackJob(predictor, tuple(readings.values()))


def _require_no_reference(options: PredictionOptions, what: str) -> None:
    if options.reference is not None:
        raise ConfigError(f"reference is for a single model of images, and checkpoint is {what}; remove reference")


def _require_reference_for_neighbors(options: PredictionOptions) -> None:
    if options.neighbors and options.reference is None:
        raise ConfigError(
            "neighbors needs the embeddings of the training images; give reference=FOLDER, made by medvit embed with "
            "this checkpoint on the training dataset"
        )


def _require_no_dropout(options: PredictionOptions, what: str) -> None:
    if options.mc_dropout is not None:
        raise ConfigError(f"mc_dropout is for a single model of images, and checkpoint is {what}; remove mc_dropout")


def _not_alone(name: str, image: Image) -> Prediction:
    raise AssertionError(f"{name} is predicted together with the other models")


def _outputs_of(asked: Sequence[str] | None, kind: str, kinds: Collection[str]) -> Outputs:
    """Return the writers that apply to a model; a writer that applies to none of the models is refused."""
    if asked is None or not any(set(writer(name).tasks) & set(kinds) for name in asked):
        return Outputs.of(asked, kind)
    return Outputs.of([name for name in asked if kind in writer(name).tasks], kind)


def names_of(folders: Sequence[Path]) -> list[str]:
    """Return a name for each checkpoint folder: its own name, preceded by parent folders if names are equal.

    Raises:
        ConfigError: If a folder is given twice.
    """
    parts = [folder.absolute().resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise ConfigError("checkpoint has a folder twice; give each once")
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["-".join(part.strip("/") for part in one[-depth:]) for one in parts]
        if len(set(names)) == len(names):
            break
    return names


def values_as_trained(given: ValuesConfig | None, recorded: ValuesConfig | None) -> ValuesConfig | None:
    """Return the options for the pixel values that a model was trained on.

    These are the options that the checkpoint has `recorded` or, if there are none, the options `given` by the user.

    Raises:
        ConfigError: If recorded and given options differ.
    """
    if recorded is None:
        return given
    options = ", ".join(recorded.set_options) or "stored values, without values.*"
    if given is not None and given != recorded:
        raise ConfigError(
            f"the model was trained on {options}; found {', '.join(given.set_options)}: leave values.* unset"
        )
    if recorded.set_options:
        log.info("predict: values are read as the model was trained on them: %s", options)
    return recorded


def tiles_as_trained(spec: TileSpec) -> CutTiles:
    """Return a function that tiles a slide like the slides that the model was trained on."""
    same = spec.model_dump(include={"size", "mpp", "overlap", "min_tissue"})
    config, slides = TilesConfig.parse(same), SlidesConfig(skip_tiles=spec.skip)
    return lambda slide: slides.usable(cut(slide, config).grid)
