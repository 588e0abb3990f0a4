"""Limits of the quality gate from the predictions of a new model for its validation images."""

from __future__ import annotations

import logging

from medvit.artifacts import Checkpoint
from medvit.dataset.manifest import Manifest
from medvit.inference.predicted_rows import predicted
from medvit.inference.predictor import Predictor
from medvit.inference.review.gate import MIN_IMAGES, Amounts, QualityGate

log = logging.getLogger("medvit")


def write_gate(checkpoint: Checkpoint, validation: Manifest) -> None:
    """Write the limits of a segmentation model of volumes into its folder, if there are enough validation images.

    A model that is stored as an adapter has no limits, because its backbone is in another folder.
    """
    rows = [*validation]
    if checkpoint.kind != "segmentation" or len(rows) < MIN_IMAGES or not checkpoint.state:
        return
    predict, failures = Predictor(checkpoint), list[str]()
    if predict.kind != "volume":
        return
    found = [Amounts.of(one) for _, _, one in predicted(validation, rows, predict, failures, title="quality gate")]
    for line in failures:
        log.warning("quality gate: %s", line)
    gate = QualityGate.of([one for one in found if one is not None])
    if gate is not None:
        gate.write(checkpoint.folder)
        log.info("%s", gate.text())
