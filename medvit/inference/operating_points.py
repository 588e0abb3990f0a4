"""Operating points of a model: thresholds that turn its probabilities into positive and negative calls.

`medvit evaluate` chooses operating points on the validation split and writes them into its report. `medvit predict`
reads them from the report and writes the call at each point. A report names its model by hash, so that a point is never
applied to another model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.errors import ConfigError, DataError
from medvit.files.atomic import write_text
from medvit.writers import Finding

OPERATING_POINTS = "operating_points.json"


@dataclass(frozen=True)
class OperatingPoint:
    """Threshold on the summed probability of some classes: the call is positive at or above the threshold."""

    name: str
    """Goal of the point, such as `sensitivity 0.95`."""
    classes: tuple[str, ...]
    """Classes that count as positive, or one label of several."""
    threshold: float
    level: str
    """Aggregation level at which the point was chosen: image, eye, visit or patient."""
    prevalence: float
    """Prevalence of the positive classes, for which predictive values were computed."""

    @property
    def positive(self) -> str:
        """Name of the positive classes in tables."""
        return " or ".join(self.classes)

    def score(self, classes: Sequence[str], probabilities: Float[Array, "n l"]) -> Float[Array, "n"]:
        """Return the summed probability of the positive classes, given the probabilities of all classes."""
        columns = [list(classes).index(name) for name in self.classes]
        return np.asarray(probabilities[:, columns].astype(np.float64).sum(axis=1))

    def finding(self, classes: Sequence[str], probabilities: Float[Array, "l"], series: str) -> Finding:
        """Return the line of `predictions.csv` with the call for a series."""
        score = float(self.score(classes, probabilities[None])[0])
        call = "positive" if score >= self.threshold else "negative"
        return Finding(
            series, self.positive, probability=score, operating_point=self.name, threshold=self.threshold, call=call
        )


@dataclass(frozen=True)
class OperatingPoints:
    """Operating points of one model, in the order in which they were requested."""

    model_hash: str
    points: tuple[OperatingPoint, ...]

    def write(self, folder: Path) -> None:
        """Write `operating_points.json` into a report folder."""
        tree = {"model": self.model_hash, "points": [asdict(point) for point in self.points]}
        write_text(folder / OPERATING_POINTS, json.dumps(tree, indent=2, allow_nan=False) + "\n")

    @classmethod
    def read(cls, folder: Path) -> OperatingPoints:
        """Return the operating points in a report folder.

        Raises:
            DataError: If the folder is not a report with operating points, or the file is damaged.
        """
        path = folder / OPERATING_POINTS
        if not path.is_file():
            raise DataError(
                f"{folder} has no {OPERATING_POINTS}; give the report of an evaluation with operating points, such as "
                "medvit evaluate operating.sensitivity=0.95"
            )
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            return cls(str(tree["model"]), tuple(_point(point) for point in tree["points"]))
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError):
            raise DataError(f"{path} is damaged and cannot be read; run evaluate again") from None

    @property
    def hash(self) -> str:
        """SHA-256 of the model hash and all points."""
        text = json.dumps([self.model_hash, [asdict(point) for point in self.points]], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def of_model(self, model_hash: str, source: str) -> OperatingPoints:
        """Return the points themselves, after checking that they were chosen for this model.

        Raises:
            ConfigError: If they were chosen for another model; `source` names the report in the message.
        """
        if self.model_hash != model_hash:
            raise ConfigError(
                f"{source}: the operating points were chosen for the model {self.model_hash[:16]}, not for "
                f"{model_hash[:16]}; evaluate this model to choose its own"
            )
        return self


def read_for_models(folders: Sequence[Path], models: Mapping[str, str]) -> dict[str, OperatingPoints]:
    """Return the operating points in report folders, keyed by the name of their model; `models` maps names to hashes.

    Raises:
        ConfigError: If a report is of none of the models, two reports are of one model, or a point was chosen for
            groups of images, whose probabilities are not known when a series is predicted.
        DataError: If a folder is not a report with operating points.
    """
    found: dict[str, OperatingPoints] = {}
    for folder in folders:
        points = OperatingPoints.read(folder)
        names = [name for name, model_hash in models.items() if model_hash == points.model_hash]
        if not names:
            points.of_model(next(iter(models.values())), str(folder))
        if names[0] in found:
            raise ConfigError(f"operating_points has two reports of one model, the second {folder}; give one of them")
        grouped = next((point for point in points.points if point.level != "image"), None)
        if grouped is not None:
            raise ConfigError(
                f"{folder}: the point {grouped.name} was chosen for each {grouped.level}, and predict calls each "
                "series; evaluate with operating.level=image"
            )
        found |= dict.fromkeys(names, points)
    return found


def calls(
    points: Sequence[OperatingPoint], classes: Sequence[str], probabilities: Float[Array, "l"] | None, series: str
) -> list[Finding]:
    """Return one finding per operating point, with the call for a series."""
    if probabilities is None:
        return []
    return [point.finding(classes, probabilities, series) for point in points]


def _point(tree: Mapping[str, Any]) -> OperatingPoint:
    point = OperatingPoint(**tree)
    return replace(point, classes=tuple(point.classes), threshold=float(point.threshold))
