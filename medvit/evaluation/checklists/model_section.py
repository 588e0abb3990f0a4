"""Section of a report on the evaluated model: architecture, inputs, preprocessing, training and software."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from medvit import __version__
from medvit.artifacts import PREPROCESS, Lineage
from medvit.config import Tree
from medvit.document import Section, Table
from medvit.evaluation.checklists.recorded import described, options_of
from medvit.evaluation.fact import Fact
from medvit.evaluation.judged import Judged
from medvit.evaluation.operating_options import TASKS
from medvit.evaluation.options import EvaluationOptions
from medvit.evaluation.part import ReportPart, ReportPlace
from medvit.models.image import ModelConfig
from medvit.models.slide import SlideModelConfig

PACKAGES = ("torch", "numpy", "scipy", "timm", "monai")
TRAINING: Mapping[str, str] = {
    "optim": "optimizer and schedule",
    "loader": "batches",
    "trainer": "epochs and precision",
    "augment": "augmentation",
    "mixing": "mixing",
}
"""Groups of options of finetune, with their names in the table."""
SINGLE = ("crop", "smoothing", "foreground", "ema", "seed")
"""Single options of finetune in the table."""
BALANCING = "balance"
NOT_BALANCED = "off"
NO_PATHS = ("weights", "embeddings", "base")
SINGLE_MODEL = "the predictions are those of one model, not of an ensemble"
NOT_UPDATED = "the probabilities are not recalibrated after training"
NOT_HANDLED = "training did not handle class imbalance (balance=off)"

_Line = tuple[Fact | None, str, str]


def model_part(options: EvaluationOptions, judged: Judged) -> ReportPart:
    """Return the part of a report that describes the model, as far as its folder records it."""
    model, folder = judged.predictor.config, model_folder(options)
    trained = options_of(folder)
    lines = [*_of_model(model, folder), *_of_training(trained, model.kind), *_software(folder)]
    facts = frozenset(fact for fact, _, _ in lines if fact is not None)
    table = Table(["", ""], [[name, text] for _, name, text in lines], is_text=True)
    return ReportPart(
        ReportPlace.LINEAGE, Section("Model and training", [table]), facts=facts, lacks=dict(_lacks(model, trained))
    )


def model_folder(options: EvaluationOptions) -> Path:
    """Return the folder of the evaluated model; that of predictions out of fold contains them."""
    if options.checkpoint is not None:
        return options.checkpoint
    assert options.predictions is not None, "one of both is given"
    return options.predictions.parent


def _of_model(model: ModelConfig | SlideModelConfig, folder: Path) -> Iterator[_Line]:
    yield Fact.ARCHITECTURE, "backbone", described(model.backbone.tree(), NO_PATHS)
    yield None, "head", described(model.head.tree())
    yield None, "adaptation", described(model.peft.tree(), NO_PATHS)
    yield Fact.OUTPUT, "output", f"{model.kind}: {', '.join(model.classes)}"
    yield Fact.INPUTS, "input", f"pixels alone; {described(model.applies_to.tree()) or 'any image'}"
    if model.calibration is None:
        yield None, "calibration", NOT_UPDATED
    else:
        fitted = f"{model.calibration.method}, fitted on {model.calibration.patients} patients"
        yield Fact.CALIBRATED, "calibration", fitted
    if model.members > 1:
        yield Fact.ENSEMBLE, "ensemble", f"{model.members} models, whose predictions are averaged"
    if isinstance(model, SlideModelConfig):
        yield Fact.PREPROCESSING, "tiles", described(model.tiles.tree())
    elif (path := folder / PREPROCESS).is_file():
        yield Fact.PREPROCESSING, "preprocessing", described(json.loads(path.read_text(encoding="utf-8")))


def _of_training(trained: Tree, kind: str) -> Iterator[_Line]:
    """Yield the options of finetune, as far as the folder of the model records them."""
    if not trained.get("optim"):
        return
    yield Fact.TRAINING, "optimizer and schedule", described(trained["optim"])
    for group, name in TRAINING.items():
        if group != "optim" and described(trained.get(group)):
            yield None, name, described(trained[group])
    yield None, "further options", described({key: trained.get(key) for key in SINGLE})
    if kind in TASKS and trained.get(BALANCING) not in (None, NOT_BALANCED):
        yield Fact.IMBALANCE, "class imbalance", f"{BALANCING}={trained[BALANCING]}"
    if trained.get("keep") in ("best", "last"):
        best = "weights of the epoch with the best metric on the validation images"
        yield Fact.CHOICE_OF_MODEL, "final model", best if trained["keep"] == "best" else "weights of the last epoch"


def _software(folder: Path) -> Iterator[_Line]:
    lineage = Lineage.read(folder)
    packages = [f"{name} {_version(name)}" for name in PACKAGES if _version(name)]
    evaluated = ", ".join([f"medvit {__version__}", *packages, f"Python {platform.python_version()}"])
    yield Fact.SOFTWARE, "software of this evaluation", evaluated
    if lineage is not None:
        yield None, "software of training", f"medvit {lineage.version}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _lacks(model: ModelConfig | SlideModelConfig, trained: Tree) -> Iterator[tuple[Fact, str]]:
    if model.members == 1:
        yield Fact.ENSEMBLE, SINGLE_MODEL
    if model.calibration is None:
        yield Fact.CALIBRATED, NOT_UPDATED
    if trained.get(BALANCING) == NOT_BALANCED:
        yield Fact.IMBALANCE, NOT_HANDLED
