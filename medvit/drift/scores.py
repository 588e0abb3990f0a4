"""Scores of studies from the `predictions.csv` of a batch of predictions."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np

from medvit.errors import DataError
from medvit.inference.outcomes import PREDICTIONS


def read_scores(folder: Path) -> dict[str, dict[str, float]]:
    """Return the scores of each study, keyed by study and class: probability, number or volume, over its series.

    Raises:
        DataError: If the folder is not an output of predict.
    """
    path = folder / PREDICTIONS
    if not path.is_file():
        raise DataError(f"{folder} has no {PREDICTIONS}; give the output of medvit predict")
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with path.open(encoding="utf-8", newline="") as stream:
        for line in csv.DictReader(stream):
            text = next((line[key] for key in ("probability", "value", "volume_ml", "num_voxels") if line.get(key)), "")
            name = " ".join(filter(None, (line.get("model"), line["class"])))
            if text:
                found[line["study"]][name].append(float(text))
    return {study: {name: float(np.mean(each)) for name, each in own.items()} for study, own in found.items()}
