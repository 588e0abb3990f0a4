"""medvit: from raw hospital images to results a clinician can open, with vision transformers.

`import medvit` is fast: it imports neither torch nor pydantic. The Python API is imported at first use: `read` and
`find` for images, classes for artifacts and records of stages, and the stages themselves as functions, such as
`medvit.ingest(source=..., dataset=...)`. The code that each stage runs is in the package `pipelines`.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

from medvit import _torchvision

if TYPE_CHECKING:
    from medvit.artifacts import Checkpoint as Checkpoint
    from medvit.artifacts import Predictions as Predictions
    from medvit.artifacts import Report as Report
    from medvit.dataset.manifest import Manifest as Manifest
    from medvit.inference.predictor import Predictor as Predictor
    from medvit.models.interchange import to_peft as to_peft
    from medvit.models.interchange import to_timm as to_timm
    from medvit.readers.by_path import find as find
    from medvit.readers.by_path import read as read
    from medvit.records import Item as Item
    from medvit.types import Image as Image
    from medvit.types import Prediction as Prediction
    from pipelines.evaluate import evaluate as evaluate
    from pipelines.finetune import finetune as finetune
    from pipelines.ingest import ingest as ingest
    from pipelines.predict import predict as predict
    from pipelines.pretrain import pretrain as pretrain

__version__ = "0.1.0"

_HOMES = {
    "Checkpoint": "medvit.artifacts",
    "Image": "medvit.types",
    "Item": "medvit.records",
    "Manifest": "medvit.dataset.manifest",
    "Prediction": "medvit.types",
    "Predictions": "medvit.artifacts",
    "Predictor": "medvit.inference.predictor",
    "Report": "medvit.artifacts",
    "evaluate": "pipelines.evaluate",
    "find": "medvit.readers.by_path",
    "finetune": "pipelines.finetune",
    "ingest": "pipelines.ingest",
    "predict": "pipelines.predict",
    "pretrain": "pipelines.pretrain",
    "read": "medvit.readers.by_path",
    "to_peft": "medvit.models.interchange",
    "to_timm": "medvit.models.interchange",
}
"""Name -> the module to import it from on first access (PEP 562)."""


class StageRoom(ModuleType):
    """Package that shares its name with a stage and can be called as that stage.

    Importing such a package makes it the attribute `medvit.NAME`. Because it can be called, `medvit.NAME(...)` works
    both before and after the import.
    """

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Run the stage; see `medvit.stage.Stage`."""
        return _imported(self.__name__.rpartition(".")[2])(*arguments, **options)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'medvit' has no attribute {name!r}")
    if name == "ingest":  # imported as the room, which is a `StageRoom`
        return importlib.import_module("medvit.ingest")
    value = globals()[name] = _imported(name)
    return value


def __dir__() -> list[str]:
    return sorted(globals().keys() | _HOMES.keys())


def _imported(name: str) -> Any:
    return getattr(importlib.import_module(_HOMES[name]), name)


_torchvision.install()
