"""Choice of the job that processes studies, according to the kind of model and the options of inference."""

from __future__ import annotations

import logging
from typing import Literal

from medvit.artifacts import Checkpoint
from medvit.deidentification.pseudonyms import SiteNames
from medvit.errors import ConfigError
from medvit.inference.options import PredictionOptions
from medvit.inference.predictor import Predictor
from medvit.inference.slide_job import CutTiles, SlideJob
from medvit.inference.slide_predictor import SlidePredictor
from medvit.inference.study_job import StudyJob
from medvit.models.slide import TileSpec
from medvit.readers.options import ValuesConfig
from medvit.writers import Maker
from medvit.writers.coded_terms import check_codes
from medvit.writers.outputs import Outputs
from medvit.wsi.locations import SlidesConfig
from medvit.wsi.tiling import TilesConfig, cut

log = logging.getLogger("medvit")


def make_job(options: PredictionOptions, checkpoint: Checkpoint, names: SiteNames, maker: Maker) -> StudyJob | SlideJob:
    """Return the job that processes studies with the model of a checkpoint.

    Raises:
        ConfigError: If an output format does not apply to the kind of model, a code is for a class that the model does
            not have, or the pixel values are not those that the model was trained on.
    """
    outputs = Outputs.of(options.outputs, checkpoint.kind)
    if options.codes and not any(name.startswith("dicom_") for name in outputs.names):
        log.warning("codes is ignored: no DICOM output is written")
    if checkpoint.kind == "slide":
        slides = SlidePredictor(checkpoint, options.device)
        check_codes(options.codes, slides.config.classes)
        rule = options.applies_to.over(slides.config.applies_to)
        series: Literal["all", "one"] = "one" if options.series == "one" else "all"
        cut_tiles = tiles_as_trained(slides.config.tiles)
        return SlideJob(slides, rule, names, maker, cut_tiles, options.tiles, series, options.codes, outputs)
    predictor = Predictor(checkpoint, options.device, options.horizons)
    check_codes(options.codes, predictor.config.classes)
    rule = options.applies_to.over(predictor.config.applies_to)
    values = values_as_trained(options.values, predictor.config.values)
    return StudyJob(predictor, rule, names, maker, options.series, options.codes, values, outputs)


def values_as_trained(given: ValuesConfig | None, recorded: ValuesConfig | None) -> ValuesConfig | None:
    """Return the options for the pixel values that a model was trained on.

    These are the options that the checkpoint has `recorded` or, if there are none, those `given` by the user.

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
