"""Fine-tuning scores its validation images as evaluation scores the same predictions."""

import math

import numpy as np
import pytest
import torch

from medvit.evaluation.tasks.classification import classification_metrics
from medvit.evaluation.tasks.segmentation import evaluate_masks, score_case
from medvit.losses.partial_labels import as_annotated
from medvit.models.image import Model, ModelConfig
from medvit.records import IGNORED, Row
from medvit.training.finetuning import Finetuning
from medvit.training.optim import OptimConfig
from medvit.types import Batch, RunLength

VIT = {"name": "vit", "ndim": 2, "channels": 1, "patch_size": 4, "width": 12, "depth": 4, "heads": 2}
CLASSES = ("background", "front", "back")


def finetuning(tmp_path, kind, head, classes=CLASSES) -> Finetuning:
    torch.manual_seed(0)
    given = {"kind": kind, "backbone": VIT, "peft": {"name": "full"}, "head": head, "classes": classes}
    config = ModelConfig.parse(given | {"applies_to": {"kind": "image"}})
    model = Model(config, config.backbone.build()).eval()
    for weight in model.head.parameters():
        if weight.ndim > 1:  # drawn wider than at the start, so that images are given every class
            torch.nn.init.normal_(weight)
    return Finetuning(
        model,
        lambda logits, targets, progress=0.0: logits.sum(),
        OptimConfig(),
        length=RunLength(1, 1, 1),
        seed=0,
        folder=tmp_path,
    )


def validated(
    module: Finetuning, pixels: torch.Tensor, targets: torch.Tensor, annotated: torch.Tensor | None = None
) -> tuple[str, float]:
    """The name and the metric of an epoch on batches of four images."""
    for number, (some, of_some) in enumerate(zip(pixels.split(4), targets.split(4), strict=True)):
        known = None if annotated is None else annotated.split(4)[number]
        module.validation_step(Batch(some, of_some, annotated=known), number)
    return module.metric_name, module._scores()[module.metric_name]


@pytest.mark.parametrize("classes", [CLASSES, ("no", "yes")])
def test_auroc_of_validation_is_that_of_evaluation(tmp_path, classes):
    module = finetuning(tmp_path, "classification", {"name": "linear"}, classes)
    pixels, targets = torch.randn(30, 1, 16, 16), torch.arange(30) % len(classes)
    name, found = validated(module, pixels, targets)
    probabilities = module.model.predict(pixels).numpy()
    assert name == "val_auroc"
    assert found == pytest.approx(classification_metrics(targets.numpy(), probabilities, classes)["auroc"], abs=1e-12)


@pytest.mark.parametrize("num_ignored_rows", [0, 5])
@pytest.mark.parametrize("num_partly", [0, 3])
def test_dice_of_validation_is_that_of_evaluation(tmp_path, num_ignored_rows, num_partly):
    module = finetuning(tmp_path, "segmentation", {"name": "dense", "channels": 4})
    pixels, targets = torch.randn(6, 1, 16, 16), torch.randint(0, 3, (6, 16, 16))
    annotated = torch.ones(6, 3, dtype=torch.bool)
    annotated[:num_partly, 1] = False
    targets = as_annotated(targets, annotated)
    targets[:, :num_ignored_rows] = IGNORED
    name, found = validated(module, pixels, targets, annotated if num_partly else None)
    masks = module.model.predict(pixels).argmax(dim=1).numpy()
    assert len(np.unique(masks)) == len(CLASSES)
    how = {"tolerance_mm": 1.0, "unit": "px"}
    scores = [
        score_case(true, given, CLASSES, (1.0, 1.0), annotated=np.array(CLASSES)[known], **how)
        for true, given, known in zip(targets.numpy(), masks, annotated.numpy(), strict=True)
    ]
    rows = [Row(str(n), str(n), "", "", "", "image", "d", "val", (1, 16, 16), "uint8", "0") for n in range(6)]
    expected = evaluate_masks(rows, scores, CLASSES, resamples=1, seed=0).metrics["dice"].value
    each = np.array([[score[f"dice.{name}"] for name in CLASSES[1:]] for score in scores])
    assert name == "val_dice"
    assert num_partly or np.nanmean(each) == pytest.approx(expected, rel=1e-12)
    assert found == pytest.approx(np.nanmean(each), rel=1e-6)  # float32


def test_validation_without_a_foreground_voxel_is_undefined(tmp_path):
    module = finetuning(tmp_path, "segmentation", {"name": "dense", "channels": 4})
    with torch.no_grad():
        for weight in module.model.head.parameters():
            weight.zero_()  # all classes alike, of which the first is the background
    assert math.isnan(validated(module, torch.randn(4, 1, 16, 16), torch.zeros(4, 16, 16, dtype=torch.long))[1])
